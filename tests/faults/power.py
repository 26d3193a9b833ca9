"""A disk whose power can be cut: an ext4 file system in a file, which forgets what was not synced.

ext4 shuts down on demand without flushing anything (EXT4_IOC_SHUTDOWN), which is how file systems themselves
are tested. Nothing is written on a timer either (commit=300), and a rename brings no data along that was not
synced (noauto_da_alloc): all that was not synced is lost, which is the worst that a machine may do. Not
simulated: blocks that a disk lost in its own cache, or wrote by halves. Needs root and a loop device.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

OPTIONS = 'loop,noauto_da_alloc,commit=300'


def can_be_cut() -> bool:
    """Whether such a disk can be made here."""
    tools = all(shutil.which(name) for name in ('mkfs.ext4', 'mount', 'umount'))
    return tools and os.geteuid() == 0 and Path('/dev/loop-control').exists()


@contextlib.contextmanager
def disk(folder: Path, megabytes: int = 256) -> Iterator['Disk']:
    """A disk in `folder`, gone afterwards."""
    found = Disk(folder, megabytes)
    try:
        yield found
    finally:
        found.unmount()
        found.image.unlink()


class Disk:
    """`path`: where it is mounted."""

    def __init__(self, folder: Path, megabytes: int):
        self.image, self.path = folder / 'disk.img', folder / 'disk'
        self.path.mkdir(parents=True, exist_ok=True)
        with self.image.open('wb') as out:
            out.truncate(megabytes << 20)
        _command('mkfs.ext4', '-q', '-F', self.image)
        self.mount()

    def mount(self) -> None:
        """What a machine does that has its power back."""
        _command('mount', '-o', OPTIONS, self.image, self.path)

    def unmount(self) -> None:
        """Only where nothing has a file open on it."""
        _command('umount', self.path)


def _command(*parts) -> None:
    subprocess.run([*map(str, parts)], check=True, capture_output=True)
