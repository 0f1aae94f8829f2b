"""Transports: one class over any driver, and a folder or file per driver."""
