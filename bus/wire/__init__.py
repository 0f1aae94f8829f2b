"""The parts of the wire format: objects as JSON, stamps as headers."""
