"""A folder that is written whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from input_pipeline.utils.output_file import NO_ROOM


@contextlib.contextmanager
def atomic_folder(output: Path, size: int) -> Iterator[Path]:
    """A new folder to write into, which becomes `output` when all went well, in place of what was there.

    Args:
      output: its parents are made. Where it is an empty folder it stays the same one: it may be a mount point
        or have rights of its own.
      size: bytes that are going to be written, about.

    Raises ValueError where the disk has no room for them, before anything is written where that can be seen.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    if free < size:
        raise ValueError(
            f'there is no space for {output}: it needs {_megabytes(size)}, {output.parent} has '
            f'{_megabytes(free)} left. Make room, or give a folder on another disk'
        )
    with tempfile.TemporaryDirectory(prefix=f'{output.name}.partial-', dir=output.parent) as temporary:
        folder = Path(temporary, 'new')
        folder.mkdir()
        try:
            yield folder
        except (SafetensorError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_ROOM:
                raise
            raise ValueError(
                f'{output} could not be written ({error}). Nothing is left of it: make room, or give a '
                'folder on another disk'
            ) from error
        if output.exists() and any(output.iterdir()):
            output.rename(Path(temporary, 'older'))
        if not output.exists():
            folder.rename(output)
            return
        for path in list(folder.iterdir()):
            shutil.move(path, output / path.name)


def check_parents(output: Path) -> None:
    """Raises ValueError where a folder cannot be made, for what is to be above it is a file."""
    above = next(path for path in output.parents if path.exists())
    if not above.is_dir():
        raise ValueError(f'{above} is a file, no folder: {output} cannot be made in it')


def _megabytes(size: int) -> str:
    return f'{size / 1e6:,.1f} MB'
