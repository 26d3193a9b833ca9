"""The formats that text comes in: a chunk of a file as a stream of (document's place, paragraph)."""

import codecs
import contextlib
import io
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from input_pipeline.documents import text_fields
from input_pipeline.documents.report import Report
from input_pipeline.utils import json_values
from input_pipeline.utils.compressed import is_compressed, open_bytes

MAX_LINE_BYTES = 16 << 20  # a longer line is skipped: `line_too_long`
FIRST_RECORDS = 100  # tell what fields a file has
END = sys.maxsize  # of a file that is read as a whole
_BLOCK = 1 << 20  # bytes read at a time
_WHOLE_GROUP = 1 << 26  # bytes of a row group that is not streamed


@dataclass(frozen=True)
class Chunk:
    """The piece of the input that one worker reads at a time.

    `start` and `end` count bytes (.txt, .jsonl), row groups (.parquet) or shards (TFDS); `num_bytes` is the
    size on disk, for progress reports, and 0 only for a file without any content. `text_fields` are read, in
    this order; of a .txt there are none.
    """

    index: int
    path: str
    format: str
    start: int
    end: int
    num_bytes: int
    text_fields: tuple[str, ...] = ()


def _open(path: str) -> io.BufferedReader:
    return io.BufferedReader(open_bytes(path), _BLOCK)


def damaged(path: str, unit: str, number: int, error: Exception | str, advice: str) -> ValueError:
    """`number`: of the last sound line, object or row, counted from 1; 0: there is none."""
    place = f'{path}:{unit}{number}' if number else f'{path}, near its beginning'
    reason = str(error).strip().partition('\n')[0] or type(error).__name__
    return ValueError(f'{place}: the file is truncated or damaged after this place ({reason}); {advice}')


def _problem(text: str) -> str:
    """Why a paragraph is dropped, or ''. Bytes that are not UTF-8 have been decoded to lone surrogates, which
    a JSON escape may also leave."""
    if '\0' in text:
        return 'nul'
    try:
        text.encode()
    except UnicodeEncodeError:
        return 'not_utf8'
    return ''


def paragraphs_of(row: Any, where: str, fields: tuple[str, ...], report: Report) -> Iterator[tuple[str, str]]:
    """The paragraphs of a record's text fields."""
    report.documents.read += 1
    if not isinstance(row, dict):
        report.drop_document('json_invalid', where)
        return
    values = text_fields.values(row, fields)
    if not values:
        report.drop_document('no_text_field', where)
    elif not any(isinstance(value, str | bytes) for value in values):
        report.documents.dropped['text_not_string'] += 1
    for value in values:
        if isinstance(value, bytes):
            value = value.decode(errors='surrogateescape')
        if not isinstance(value, str):
            report.add('text_not_string', where)
            continue
        for line in value.split('\n'):
            report.paragraphs.read += 1
            text = line.strip()
            if problem := _problem(text):
                report.drop_paragraph(problem, where)
            elif text:
                report.paragraphs.kept += 1
            else:
                report.paragraphs.dropped['blank'] += 1
            yield where, '' if problem else text


# .txt and .jsonl: lines


_Line = tuple[int, int, str | None]  # number, offset of its first byte in the file, text; None: too long


def _where(chunk: Chunk, number: int, offset: int) -> str:
    """The place of a line; its number is known only where the chunk begins with the file."""
    return f'{chunk.path}@{offset}' if chunk.start else f'{chunk.path}:{number}'


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
                if len(line) > MAX_LINE_BYTES:
                    yield number, offset, None
                    offset += len(line) + (0 if line.endswith(b'\n') else _skip_line(stream))
                else:
                    text = line.decode(errors='surrogateescape')
                    yield number, offset, text if offset else text.removeprefix('\ufeff')
                    offset += len(line)
        except OSError as error:
            if not is_compressed(chunk.path):
                raise
            advice = 'get it again, or unpack what is left of it (gzip -dc, zstd -dc) and give that'
            raise damaged(chunk.path, '', number, error, advice) from error


def _skip_line(stream: io.BufferedReader) -> int:
    """Goes to the start of the next line, in bounded memory; returns the bytes skipped."""
    skipped = 0
    while part := stream.readline(_BLOCK):
        skipped += len(part)
        if part.endswith(b'\n'):
            break
    return skipped


def read_txt(chunk: Chunk, report: Report) -> Iterator[tuple[str, str]]:
    """A document belongs to the chunk where the last blank line before it, or else the file, begins."""
    in_chunk = chunk.start == 0
    source = None  # of the document being read; None between documents
    for number, offset, line in _lines(chunk):
        text = None if line is None else line.strip()
        if offset >= chunk.end and (text == '' or not in_chunk):
            return
        if text == '':
            in_chunk, source = True, None
        elif in_chunk:
            if source is None:
                source = _where(chunk, number, offset)
                report.documents.read += 1
            report.paragraphs.read += 1
            problem = 'line_too_long' if text is None else _problem(text)
            if text and not problem:
                report.paragraphs.kept += 1
                yield source, text
            else:
                report.drop_paragraph(problem, _where(chunk, number, offset))
                yield source, ''


def read_jsonl(chunk: Chunk, report: Report) -> Iterator[tuple[str, str]]:
    """A line belongs to the chunk that holds its first byte. Blank lines mean nothing."""
    for number, offset, line in _lines(chunk):
        if offset >= chunk.end:
            return
        where = _where(chunk, number, offset)
        if line is None:
            report.documents.read += 1
            report.drop_document('line_too_long', where)
        elif line.strip():
            yield from paragraphs_of(json_values.decode(line), where, chunk.text_fields, report)


# .json: one array


def _objects(path: str) -> Iterator[Any]:
    """The values of a .json, cut from its array one by one."""
    number = 0
    try:
        with _open(path) as stream:
            for value in json_values.items(_decoded(stream), path, MAX_LINE_BYTES):
                number += 1
                yield value
    except (json_values.BrokenArrayError, OSError) as error:
        if isinstance(error, OSError) and not is_compressed(path):
            raise
        raise damaged(path, 'object ', number, error, 'get it again, or repair it there') from error


def _decoded(stream: io.BufferedReader) -> Iterator[str]:
    decode = codecs.getincrementaldecoder('utf-8-sig')('surrogateescape').decode
    while block := stream.read1(_BLOCK):
        yield decode(block)
    yield decode(b'', True)


def read_json(chunk: Chunk, report: Report) -> Iterator[tuple[str, str]]:
    """Objects are counted from 1."""
    for number, row in enumerate(_objects(chunk.path), 1):
        yield from paragraphs_of(row, f'{chunk.path}:object {number}', chunk.text_fields, report)


# Of a .json or .jsonl, before it is read


def json_kind(path: str) -> str:
    """How a .json file is read: 'jsonl' where its first line is an object by itself, else 'json'."""
    start = ''
    with contextlib.suppress(OSError), _open(path) as stream:  # who reads it says what is wrong with it
        start = next(filter(None, map(str.lstrip, _decoded(stream))), '')
    is_object = start.startswith('{') and isinstance(next(_line_values(path), None), dict)
    return 'jsonl' if is_object else 'json'


def fields_of(path: str, kind: str) -> list[str]:
    """The fields of the first objects of a 'json' or 'jsonl', in order; [] where there is none.

    Raises ValueError where the file is damaged before that, or a 'json' holds no array.
    """
    values = itertools.islice((_objects if kind == 'json' else _line_values)(path), FIRST_RECORDS)
    return [*dict.fromkeys(key for row in values if isinstance(row, dict) for key in row)]


def _line_values(path: str) -> Iterator[Any]:
    """The JSON value of each line that is not blank; None where it is none."""
    lines = _lines(Chunk(0, path, 'jsonl', 0, END, 0))
    return (json_values.decode(line or '') for _, _, line in lines if line is None or line.strip())


# .parquet: row groups


def read_parquet(chunk: Chunk, report: Report) -> Iterator[tuple[str, str]]:
    """Rows are counted from 1, over the whole file."""
    row = 0
    with epath.Path(chunk.path).open('rb') as stream:
        try:
            metadata = pq.read_metadata(stream)
            # Without pre_buffer and with a small buffer, a column is streamed page by page; but then a page
            # that says that it has 2 GB is given them. What fits into memory is not streamed.
            is_streamed = metadata.row_group(chunk.start).total_byte_size > _WHOLE_GROUP
            table = pq.ParquetFile(
                stream,
                metadata=metadata,
                pre_buffer=False,
                buffer_size=_BLOCK if is_streamed else 0,
                page_checksum_verification=True,
            )
            row = sum(table.metadata.row_group(group).num_rows for group in range(chunk.start))
            fields = chunk.text_fields
            for batch in table.iter_batches(256, row_groups=[chunk.start], columns=list(fields)):
                columns = [_undecoded(batch.column(name)).to_pylist() for name in fields]
                for values in zip(*columns):
                    row += 1
                    yield from paragraphs_of(
                        dict(zip(fields, values)), f'{chunk.path}:row {row}', fields, report
                    )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
            advice = 'get it again, or leave it out of the input'
            raise damaged(chunk.path, 'row ', row, error, advice) from error


def _undecoded(column: pa.Array) -> pa.Array:
    """Strings as bytes: one that is not UTF-8 would stop the whole batch."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
    return column.cast(binary) if binary else column


# tfds: shards of a prepared data set


def tfds_builder(path: str) -> Any:
    """From the files alone: nothing is downloaded."""
    import tensorflow_datasets as tfds  # takes seconds, and few need it

    return tfds.core.read_only_builder.builder_from_files(path.removeprefix('tfds:'))


def read_tfds(chunk: Chunk, report: Report) -> Iterator[tuple[str, str]]:
    """Shards and their examples are counted from 0, as TFDS does."""
    import tensorflow_datasets as tfds

    examples = tfds_builder(chunk.path).as_dataset(split=f'train[{chunk.start}shard:{chunk.end}shard]')
    for number, example in enumerate(tfds.as_numpy(examples)):
        where = f'{chunk.path}:shard {chunk.start} example {number}'
        yield from paragraphs_of(example, where, chunk.text_fields, report)
