"""Inputs that nobody meant: `python -m fuzz` attacks every target of `fuzz.targets` (make fuzz)."""
