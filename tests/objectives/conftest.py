"""Fixtures that several files here take."""

from helpers.mlctl import params  # noqa: F401
