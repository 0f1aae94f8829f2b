"""Example applications of the bus."""
