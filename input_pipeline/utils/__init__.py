"""Bytes, JSON values, counts: what knows nothing of text."""
