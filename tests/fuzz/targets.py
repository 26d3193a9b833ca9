"""Every target by its name. A module of targets has a function `targets()`; each is named here once."""

from fuzz import data_targets, folders
from fuzz.engine import Target


def all_targets() -> dict[str, Target]:
    """By name."""
    return {**data_targets.targets(), **folders.targets()}


def find(name: str) -> Target:
    """One of them; the other module's are not made."""
    return (folders if name.startswith('folder_') else data_targets).targets()[name]
