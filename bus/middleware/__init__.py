"""Middleware: one file each, around a message or around the call of one handler."""
