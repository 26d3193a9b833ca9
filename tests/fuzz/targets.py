"""Every target by its name. A module of targets has a function `targets()`; each is named here once."""

from fuzz import data_targets, folders
from fuzz.engine import Target


def all_targets() -> dict[str, Target]:
    """Imports what the targets read with, which takes seconds."""
    return {**data_targets.targets(), **folders.targets()}
