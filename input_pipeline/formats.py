"""The formats that text comes in: a chunk of a file as a stream of (document's place, paragraph)."""

import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ijson
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

MAX_LINE_BYTES = 16 << 20  # a longer line is skipped: `line_too_long`
EXAMPLES_PER_REASON = 3
END = sys.maxsize  # of a file that is read as a whole
_BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Chunk:
    """The piece of the input that one worker reads at a time.

    `start` and `end` count bytes (.txt, .jsonl), row groups (.parquet) or shards (TFDS); `num_bytes` is the
    size on disk, for progress reports, and 0 only for an empty file.
    """

    index: int
    path: str
    format: str
    start: int
    end: int
    num_bytes: int
    text_field: str


@dataclass
class Report:
    """How often something happened, by reason, and the first few places where. Reasons counted by `read`:

    - of a paragraph (a line of a .txt) that is dropped: `not_utf8`, `line_too_long`, `nul` (it holds the
      character U+0000, which no text does: the file is binary, damaged, or in UTF-16);
    - of a document that is dropped: `empty_document`, `json_invalid`, `no_text_field` (missing or null),
      `text_not_string`, and in .jsonl `line_too_long`;
    - `document_cut`: nothing is dropped; the document was too long and is read as several.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: str | None = None, count: int = 1) -> None:
        """Counts a reason; `where` is the place, such as a `Document.source`."""
        self.counts[reason] += count
        examples = self.examples.setdefault(reason, [])
        if where is not None and len(examples) < EXAMPLES_PER_REASON:
            examples.append(where)

    def merge(self, other: 'Report') -> None:
        """Adds another report. Merged in the order of the chunks, the examples are the input's first."""
        self.counts.update(other.counts)
        for reason, examples in other.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine.extend(examples[: EXAMPLES_PER_REASON - len(mine)])

    def to_json(self) -> dict[str, dict[str, Any]]:
        """{reason: {'count': n, 'examples': ['file:line', …]}}, sorted by reason."""
        return {
            reason: {'count': count, 'examples': [locate(where) for where in self.examples.get(reason, [])]}
            for reason, count in sorted(self.counts.items())
        }


def locate(source: str) -> str:
    """'file@byte' as 'file:line'; any other source as it is.

    A chunk from the middle of a file does not know its line numbers. They are counted here, for the few
    places that a person is shown, because that means reading the file up to there.
    """
    path, _, offset = source.rpartition('@')
    if not path or not offset.isdecimal():
        return source
    line, left = 1, int(offset)
    with epath.Path(path).open('rb') as stream:
        while block := stream.read(min(left, _BLOCK)):
            line += block.count(b'\n')
            left -= len(block)
    return f'{path}:{line}'


def is_compressed(path: str) -> bool:
    """Whether the file is read through a decompressor, which its name tells."""
    return path.lower().endswith(('.gz', '.zst'))


def _open(path: str) -> io.BufferedReader:
    """The file's bytes, decompressed. Arrow's decompressor notices a truncated file, also in .zst."""
    raw: Any = epath.Path(path).open('rb')
    if is_compressed(path):
        raw = pa.CompressedInputStream(raw, 'gzip' if path.lower().endswith('.gz') else 'zstd')
    return io.BufferedReader(raw, _BLOCK)


def _damaged(place: str, error: Exception, advice: str) -> ValueError:
    reason = str(error).strip().partition('\n')[0] or type(error).__name__
    return ValueError(
        f'{place}: the file is truncated or damaged somewhere after this place ({reason}); {advice}'
    )


def _paragraph(text: str, where: str, report: Report) -> str:
    """The paragraph without outer white space, or '' where it is dropped. Bytes that are not UTF-8 have been
    decoded to lone surrogates, which a JSON escape may also leave."""
    if '\0' in text:
        report.add('nul', where)
        return ''
    try:
        text.encode()
    except UnicodeEncodeError:
        report.add('not_utf8', where)
        return ''
    return text.strip()


def _text(value: Any, where: str, report: Report) -> Iterator[tuple[str, str]]:
    """The paragraphs of what was found in a text field."""
    if isinstance(value, bytes):
        value = value.decode(errors='surrogateescape')
    if isinstance(value, str):
        for line in value.split('\n'):
            yield where, _paragraph(line, where, report)
    else:
        report.add('no_text_field' if value is None else 'text_not_string', where)


def _json_text(row: Any, where: str, text_field: str, report: Report) -> Iterator[tuple[str, str]]:
    """The paragraphs of a JSON object."""
    if isinstance(row, dict):
        yield from _text(row.get(text_field), where, report)
    else:
        report.add('json_invalid', where)


# .txt and .jsonl: lines


@dataclass
class _Line:
    offset: int  # of its first byte in the file
    where: str
    text: str | None  # None: too long


def _lines(chunk: Chunk) -> Iterator[_Line]:
    """The lines that begin in a chunk and, as the reader knows when to stop, all after it."""
    number = 0
    with _open(chunk.path) as stream:
        try:
            offset = max(chunk.start - 1, 0)
            if offset != chunk.start:  # the line that holds the byte before the chunk is not the chunk's
                stream.seek(offset)
                offset += _skip_line(stream)
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f'{chunk.path}@{offset}' if chunk.start else f'{chunk.path}:{number}'
                if len(line) > MAX_LINE_BYTES:
                    yield _Line(offset, where, None)
                    offset += len(line) + (0 if line.endswith(b'\n') else _skip_line(stream))
                else:
                    text = line.decode(errors='surrogateescape')
                    yield _Line(offset, where, text if offset else text.removeprefix('\ufeff'))
                    offset += len(line)
        except OSError as error:
            if not is_compressed(chunk.path):
                raise
            advice = (
                'get it again, or unpack what is left of it (gzip -dc, zstd -dc) and give that file instead'
            )
            raise _damaged(f'{chunk.path}:{number}', error, advice) from error


def _skip_line(stream: io.BufferedReader) -> int:
    """Goes to the start of the next line, in bounded memory; returns the bytes skipped."""
    skipped = 0
    while part := stream.readline(_BLOCK):
        skipped += len(part)
        if part.endswith(b'\n'):
            break
    return skipped


def _read_txt(chunk: Chunk, report: Report) -> Iterator[tuple[str, str]]:
    """A document belongs to the chunk where the last blank line before it, or else the file, begins."""
    mine = chunk.start == 0
    source = None  # of the document being read; None between documents
    for line in _lines(chunk):
        blank = line.text is not None and not line.text.strip()
        if line.offset >= chunk.end and (blank or not mine):
            return
        if blank:
            mine, source = True, None
        elif mine:
            source = source or line.where
            if line.text is None:
                report.add('line_too_long', line.where)
            yield source, _paragraph(line.text or '', line.where, report)


def _read_jsonl(chunk: Chunk, report: Report) -> Iterator[tuple[str, str]]:
    """A line belongs to the chunk that holds its first byte. Blank lines mean nothing."""
    for line in _lines(chunk):
        if line.offset >= chunk.end:
            return
        if line.text is None:
            report.add('line_too_long', line.where)
        elif line.text.strip():
            try:
                row = json.loads(
                    line.text, strict=False
                )  # control characters in strings are common, and harmless
            except (ValueError, RecursionError):
                row = None
            yield from _json_text(row, line.where, chunk.text_field, report)


# .json: one array


def _read_json(chunk: Chunk, report: Report) -> Iterator[tuple[str, str]]:
    """One object is held at a time."""
    number = 0
    with _open(chunk.path) as stream:
        try:
            if stream.peek(3).startswith(b'\xef\xbb\xbf'):  # a byte order mark
                stream.read(3)
            if stream.peek(1).lstrip()[:1] not in (b'[', b''):
                raise ValueError(
                    f'{chunk.path} does not hold one array, [{{…}}, {{…}}]; '
                    'if it has an object on each line, name it .jsonl'
                )
            for number, row in enumerate(ijson.items(stream, 'item', use_float=True), 1):
                yield from _json_text(row, f'{chunk.path}:object {number}', chunk.text_field, report)
        except (ijson.JSONError, OSError) as error:
            place = f'{chunk.path}:object {number}'
            raise _damaged(place, error, 'get it again, or repair it there') from error


# .parquet: row groups


def parquet_chunks(path: str, text_field: str) -> list[Chunk]:
    """A chunk per row group, all with index 0. ValueError: a damaged file, or no column `text_field`."""
    with epath.Path(path).open('rb') as stream:
        try:
            metadata = pq.read_metadata(stream)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(f'{path}:row 0', error, 'get it again, or leave it out of the input') from error
    columns = metadata.schema.to_arrow_schema().names
    if text_field not in columns:
        raise ValueError(
            f'{path} has no column {text_field!r}: name its text column, one of {", ".join(columns)}'
        )
    sizes = [max(metadata.row_group(group).total_byte_size, 1) for group in range(metadata.num_row_groups)]
    return [Chunk(0, path, 'parquet', group, group + 1, size, text_field) for group, size in enumerate(sizes)]


def _read_parquet(chunk: Chunk, report: Report) -> Iterator[tuple[str, str]]:
    """Rows are counted from 1, over the whole file."""
    row = 0
    with epath.Path(chunk.path).open('rb') as stream:
        try:
            # Without pre_buffer and with a small buffer, the column is streamed page by page.
            table = pq.ParquetFile(
                stream, pre_buffer=False, buffer_size=_BLOCK, page_checksum_verification=True
            )
            row = sum(table.metadata.row_group(group).num_rows for group in range(chunk.start))
            for batch in table.iter_batches(256, row_groups=[chunk.start], columns=[chunk.text_field]):
                for value in _undecoded(batch.column(0)).to_pylist():
                    row += 1
                    yield from _text(value, f'{chunk.path}:row {row}', report)
        except (pa.ArrowException, OSError) as error:
            place = f'{chunk.path}:row {row}'
            raise _damaged(place, error, 'get it again, or leave it out of the input') from error


def _undecoded(column: pa.Array) -> pa.Array:
    """Strings as bytes: one that is not UTF-8 would stop the whole batch."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
    return column.cast(binary) if binary else column


# tfds: shards of a prepared data set


def _builder(path: str) -> Any:
    """From the files alone: nothing is downloaded."""
    import tensorflow_datasets as tfds  # takes seconds, and few need it

    return tfds.core.read_only_builder.builder_from_files(path.removeprefix('tfds:'))


def tfds_chunks(path: str, text_field: str) -> list[Chunk]:
    """A chunk per shard, all with index 0. ValueError: not prepared, or no train split or `text_field`."""
    name = path.removeprefix('tfds:')
    try:
        info = _builder(path).info
        train = info.splits['train']
    except (ValueError, KeyError) as error:
        raise ValueError(
            f'{path}: no TFDS data set of this name, with a train split, has been prepared: prepare it '
            f'("tfds build {name}"), or set TFDS_DATA_DIR to the folder where it is'
        ) from error
    if text_field not in info.features:
        names = ', '.join(info.features)
        raise ValueError(f'{path} has no feature {text_field!r}: name its text feature, one of {names}')
    size = max(train.num_bytes // train.num_shards, 1)
    return [Chunk(0, path, 'tfds', shard, shard + 1, size, text_field) for shard in range(train.num_shards)]


def _read_tfds(chunk: Chunk, report: Report) -> Iterator[tuple[str, str]]:
    """Shards and their examples are counted from 0, as TFDS does."""
    import tensorflow_datasets as tfds

    examples = _builder(chunk.path).as_dataset(split=f'train[{chunk.start}shard:{chunk.end}shard]')
    for number, example in enumerate(tfds.as_numpy(examples)):
        where = f'{chunk.path}:shard {chunk.start} example {number}'
        yield from _text(example[chunk.text_field], where, report)


READERS = {
    'txt': _read_txt,
    'jsonl': _read_jsonl,
    'json': _read_json,
    'parquet': _read_parquet,
    'tfds': _read_tfds,
}
