"""Names of models on the Hugging Face hub: OWNER/NAME, or OWNER/NAME@REVISION."""

import re
from pathlib import Path

_NAME = re.compile(r'(?P<repository>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?')


def is_name(source: str | Path) -> bool:
    """Whether a text is a name on the hub: neither is it a path here, nor is there a folder OWNER, in which a
    path was mistyped."""
    path = Path(source)
    return bool(_NAME.fullmatch(str(source))) and not path.exists() and not path.parent.exists()


def split(source: str | Path) -> tuple[str, str | None]:
    """What may be a name as its repository and its revision, None where it has none."""
    match = _NAME.fullmatch(str(source))
    return (match['repository'], match['revision']) if match else (str(source), None)
