"""Fixtures that several files here take."""

from helpers.batches import config  # noqa: F401
