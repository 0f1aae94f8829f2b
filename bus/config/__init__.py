"""Configuration: text with positions, then a frozen model, then parts."""
