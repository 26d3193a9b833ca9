"""Files as bytes, decompressed where their names end in .gz or .zst."""

import io
import zlib
from collections.abc import Callable
from typing import Any

import zstandard
from etils import epath

_BLOCK = 1 << 16  # compressed bytes taken at a time
_MAX_WINDOW = 1 << 31  # bytes, what `zstd --ultra --long=31` writes; as much memory is taken, if a file asks


def is_compressed(path: str) -> bool:
    """Whether the file is read through a decompressor, which its name tells."""
    return path.lower().endswith(('.gz', '.zst'))


def open_bytes(path: str) -> io.RawIOBase:
    """The file's bytes, decompressed; of a .zst any window is read, of a .gz any zeros after its end are not.

    Reading raises OSError where the compressed file is truncated or damaged.

    Raises:
      ValueError: the file is not what its name says.
      OSError: it cannot be opened.
    """
    raw: Any = epath.Path(path).open('rb')
    if not is_compressed(path):
        return raw
    kind = 'gzip' if path.lower().endswith('.gz') else 'zstd'
    start = raw.read(4)
    raw.seek(0)
    # A frame of zstd, or one to skip, which parallel compressors write first.
    is_zstd = start == b'\x28\xb5\x2f\xfd' or start[1:] == b'\x2a\x4d\x18'
    if not (start[:2] == b'\x1f\x8b' if kind == 'gzip' else is_zstd):
        raw.close()
        raise ValueError(f'{path} is no {kind} file, though its name says so; give it its right name')
    if kind == 'gzip':
        return _Members(raw, lambda: zlib.decompressobj(wbits=31), padding=b'\0')
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    return _Members(raw, decompressor.decompressobj)


class _Members(io.RawIOBase):
    """What the members of a .gz, or the frames of a .zst, hold, one after another.

    `member` makes what decompresses one. Between them, and after the last, bytes of `padding` mean nothing.
    Neither Arrow nor zstandard's own reader would do: that one takes no long window, this one no notice of a
    file that is cut short.
    """

    def __init__(self, raw: Any, member: Callable[[], Any], padding: bytes = b''):
        self._raw, self._make, self._padding = raw, member, padding
        self._member: Any = None  # the one being read
        self._taken, self._made = b'', memoryview(b'')

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._made:
            taken = self._taken or self._raw.read(_BLOCK)
            if not taken and self._member:
                raise OSError('it ends in the middle')
            if not taken:
                return 0
            if not self._member:
                taken = taken.lstrip(self._padding)
                self._member = self._make() if taken else None
            self._taken = b''
            if self._member:
                try:
                    self._made = memoryview(self._member.decompress(taken))
                except (zlib.error, zstandard.ZstdError) as error:
                    raise OSError(str(error)) from error
                if self._member.eof:
                    self._taken, self._member = self._member.unused_data, None
        count = min(len(buffer), len(self._made))
        buffer[:count] = self._made[:count]
        self._made = self._made[count:]
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
