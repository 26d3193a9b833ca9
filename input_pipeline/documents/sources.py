"""Text in, documents out.

    chunks = plan('text/*.txt,more/')        # what there is to read, cut into pieces of work
    for document in read(chunks[0], report): # one piece, as a stream of documents

The chunks depend on the input alone, never on who reads them, and every document belongs to exactly one
chunk: any number of workers sees the same documents in the same order. Reading takes bounded memory. What
cannot be used is counted in a `Report` under its reason; a damaged file stops the job with a ValueError.

    format                       a document is                                        a chunk is
    .txt                         the lines up to a blank line, a paragraph each       a range of bytes
    .jsonl                       a line: an object, its text in `text_field`          a range of bytes
    .json                        an object of one array (WuDao's form), likewise;     the file
                                 or as .jsonl
    the three with .gz or .zst   the same                                             the file
    .parquet                     a row, its text in the column `text_field`           a row group
    tfds:NAME/CONFIG:VERSION     an example of a prepared data set's train split      a shard

Except in .txt, a newline within the text ends a paragraph, and so does the end of a field, where `text_field`
has several. Byte order marks and CRLF are accepted.
"""

import glob
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from input_pipeline.documents import readers, text_fields
from input_pipeline.documents.readers import END, Chunk, damaged, fields_of, json_kind, tfds_builder
from input_pipeline.documents.report import Report
from input_pipeline.utils.compressed import is_compressed

log = logging.getLogger(__name__)


@dataclass
class Document:
    """Paragraphs, none of them empty, without line ends and outer white space; and where the document begins:
    'file:line', 'file:object n', 'file:row n', or 'file@byte', which `report.locate` makes 'file:line'."""

    paragraphs: list[str]
    source: str


def plan(pattern: str, chunk_bytes: int = 16 << 20, text_field: str = '') -> list[Chunk]:
    """The chunks of an input, in the order of its sorted paths.

    Args:
      pattern: a file, a folder (read with its subfolders), a glob (`**` too) or tfds:NAME/CONFIG; several are
        separated by commas. A file that is matched twice, or by several names, is read once.
      chunk_bytes: size of the ranges that .txt and .jsonl are cut into.
      text_field: the field, column or feature that holds the text, in all formats but .txt, or several,
        separated by commas; empty: found by its name in each file (`text_fields.KNOWN`). What fields a JSON
        file has, its first objects say.

    Raises:
      ValueError: a pattern matches nothing; a folder holds no file of a known format; a file is of no known
        format, or has no `text_field`; a .parquet file or TFDS data set is damaged or missing.
    """
    if chunk_bytes <= 0:
        raise ValueError(f'chunk_bytes must be positive, not {chunk_bytes}')
    patterns = [part.strip() for part in pattern.split(',') if part.strip()]
    if not patterns:
        raise ValueError(f'no input is given: name a file, a folder or a glob; known formats: {FORMATS}')
    matches = sorted({path for part in patterns for path in _paths(part)})
    paths = {path if ':' in path else os.path.realpath(path): path for path in reversed(matches)}
    chunks = itertools.chain.from_iterable(
        _chunks(path, chunk_bytes, text_field) for path in sorted(paths.values())
    )
    return [replace(chunk, index=index) for index, chunk in enumerate(chunks)]


def read(chunk: Chunk, report: Report, max_document_chars: int = 1_000_000) -> Iterator[Document]:
    """The documents of a chunk, in order; what is dropped is counted in `report`, which lists the reasons.

    A document of more than `max_document_chars` characters (a .txt without blank lines, say) comes as
    several, cut between paragraphs. A single paragraph is never cut.

    Raises:
      ValueError: a truncated or damaged .gz, .zst or .parquet file, or a .json file that is not one sound
        array. The message says how far the file could be read, and what to do.
      OSError: the file cannot be opened.
    """
    if chunk.num_bytes == 0:
        report.documents.read += 1
        report.drop_document('empty_document', f'{chunk.path}:1')
        return
    problems, documents = report.counts.total(), 0
    paragraphs = READERS[chunk.format].read(chunk, report)
    for source, group in itertools.groupby(paragraphs, key=itemgetter(0)):
        for document in _pieces(source, map(itemgetter(1), group), report, max_document_chars):
            documents += 1
            yield document
    if not documents and report.counts.total() == problems and _is_whole_file(chunk):
        report.documents.read += 1
        report.drop_document('empty_document', f'{chunk.path}:1')


def _is_whole_file(chunk: Chunk) -> bool:
    """Whether no other chunk is of this file: one from its middle may well begin no document."""
    return READERS[chunk.format].by_bytes and chunk.num_bytes == epath.Path(chunk.path).stat().length


def _pieces(source: str, paragraphs: Iterator[str], report: Report, max_chars: int) -> Iterator[Document]:
    """One document, or several of at most `max_chars` characters. Empty paragraphs vanish."""
    piece: list[str] = []
    size = 0
    cut = False
    for paragraph in filter(None, paragraphs):
        if piece and size + len(paragraph) > max_chars:
            report.pieces += 1
            yield Document(piece, source)
            piece, size, cut = [], 0, True
        piece.append(paragraph)
        size += len(paragraph)
    if piece:
        report.pieces += 1
        report.documents.kept += 1
        yield Document(piece, source)
    else:
        report.drop_document('empty_document', source)
    if cut:
        report.add('document_cut', source)


def _paths(pattern: str) -> list[str]:
    """The files that one pattern stands for."""
    if pattern.startswith('tfds:'):
        return [pattern]
    path = epath.Path(pattern)
    if path.exists():
        matches = [pattern]
    elif '://' in pattern:
        matches = [str(match) for match in path.parent.glob(path.name)]
    else:
        matches = glob.glob(pattern, recursive=True)
    if not matches:
        raise ValueError(
            f'the input {pattern!r} matches no file (in {os.getcwd()}): name a file, a folder or a glob, '
            f'several separated by commas; known formats: {FORMATS}'
        )
    folders = [match for match in matches if epath.Path(match).is_dir()]
    files = [
        os.path.normpath(match) if '://' not in match else match for match in set(matches) - set(folders)
    ]
    return files + [path for folder in folders for path in _folder(folder)]


def _folder(folder: str) -> list[str]:
    """A folder's files and its subfolders', without the hidden and, with a warning, the unknown ones."""
    files = []
    for root, names in _walk(folder):
        inside = os.path.relpath(root, folder).split(os.sep)
        if not any(part.startswith('.') and part != '.' for part in inside):
            files += [str(epath.Path(root) / name) for name in names if not name.startswith('.')]
    known = [path for path in files if _format(path)]
    others = sorted(set(files) - set(known))
    example = f', for example {others[0]}' if others else ''
    if not known:
        raise ValueError(
            f'the input folder {folder!r} holds no file of a known format ({FORMATS}), '
            f'but {len(others)} of other formats{example}'
        )
    if others:
        log.warning('%s: %d files of unknown formats are not read%s', folder, len(others), example)
    return known


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """(folder, the names of its files) of a folder and its subfolders, links to folders included."""
    if '://' in folder:
        yield from ((str(root), names) for root, _, names in epath.Path(folder).walk())
        return
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if (place := os.path.realpath(root)) in seen:
            folders.clear()  # a link to a folder above would go on for ever
            continue
        seen.add(place)
        yield root, names


def _format(path: str) -> str | None:
    """The key of the file's format in READERS, by its name; None: unknown."""
    packed = is_compressed(path)
    base = os.path.splitext(path)[0] if packed else path
    suffix = os.path.splitext(base.lower())[1][1:]
    known = suffix in READERS and suffix != TFDS and not (packed and not READERS[suffix].compressible)
    return suffix if known else None


def _chunks(path: str, chunk_bytes: int, text_field: str) -> list[Chunk]:
    """The chunks of one file, all numbered 0."""
    kind = TFDS if path.startswith(f'{TFDS}:') else _format(path)
    if kind is None:
        raise ValueError(f'{path} is of no known format; known formats: {FORMATS}')
    if READERS[kind].by_bytes and epath.Path(path).stat().length == 0:
        return [Chunk(0, path, kind, 0, END, 0)]
    return READERS[kind].chunks(path, chunk_bytes, text_field)


def _txt_chunks(path: str, chunk_bytes: int, text_field: str) -> list[Chunk]:
    return _ranges(path, 'txt', chunk_bytes)


def _jsonl_chunks(path: str, chunk_bytes: int, text_field: str) -> list[Chunk]:
    return _ranges(path, 'jsonl', chunk_bytes, text_fields.choose(path, fields_of(path, 'jsonl'), text_field))


def _json_chunks(path: str, chunk_bytes: int, text_field: str) -> list[Chunk]:
    if json_kind(path) == 'jsonl':
        return _jsonl_chunks(path, chunk_bytes, text_field)
    fields = text_fields.choose(path, fields_of(path, 'json'), text_field)
    return [Chunk(0, path, 'json', 0, END, epath.Path(path).stat().length, fields)]


def _ranges(path: str, kind: str, chunk_bytes: int, fields: tuple[str, ...] = ()) -> list[Chunk]:
    """Of a file of lines: ranges of its bytes, or where it is compressed the whole."""
    size = epath.Path(path).stat().length
    if is_compressed(path):
        return [Chunk(0, path, kind, 0, END, size, fields)]
    bounds = [*range(0, size, chunk_bytes), size]
    return [
        Chunk(0, path, kind, start, end, end - start, fields) for start, end in itertools.pairwise(bounds)
    ]


def _parquet_chunks(path: str, chunk_bytes: int, text_field: str) -> list[Chunk]:
    """A chunk per row group, all with index 0. ValueError: a damaged file, or none of `text_field`."""
    with epath.Path(path).open('rb') as stream:
        try:
            metadata = pq.read_metadata(stream)
            names = metadata.schema.to_arrow_schema().names
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
            raise damaged(path, 'row ', 0, error, 'get it again, or leave it out of the input') from error
    fields = text_fields.choose(path, names, text_field)
    if not metadata.num_rows:
        return [Chunk(0, path, 'parquet', 0, 0, 0, fields)]
    sizes = [max(metadata.row_group(group).total_byte_size, 1) for group in range(metadata.num_row_groups)]
    return [Chunk(0, path, 'parquet', group, group + 1, size, fields) for group, size in enumerate(sizes)]


def _tfds_chunks(path: str, chunk_bytes: int, text_field: str) -> list[Chunk]:
    """A chunk per shard, all with index 0. ValueError: not prepared, or no train split or `text_field`."""
    name = path.removeprefix('tfds:')
    try:
        info = tfds_builder(path).info
        train = info.splits['train']
    except (ValueError, KeyError) as error:
        raise ValueError(
            f'{path}: no TFDS data set of this name, with a train split, has been prepared: prepare it '
            f'("tfds build {name}"), or set TFDS_DATA_DIR to the folder where it is'
        ) from error
    fields = text_fields.choose(path, info.features, text_field)
    size = max(train.num_bytes // train.num_shards, 1)
    return [Chunk(0, path, 'tfds', shard, shard + 1, size, fields) for shard in range(train.num_shards)]


class Reader(NamedTuple):
    """A format: how its files are cut, and how a chunk is read.

    read: (chunk, report) → (document's place, paragraph), document by document.
    chunks: (path, chunk_bytes, text_field) → the chunks of a file, all numbered 0.
    compressible: whether its files may be .gz or .zst. by_bytes: whether chunks count the file's bytes.
    """

    read: Callable[[Chunk, Report], Iterator[tuple[str, str]]]
    chunks: Callable[[str, int, str], list[Chunk]]
    compressible: bool = False
    by_bytes: bool = True


TFDS = 'tfds'  # the one format that is no file's suffix
READERS: Mapping[str, Reader] = MappingProxyType(
    {
        'txt': Reader(readers.read_txt, _txt_chunks, compressible=True),
        'jsonl': Reader(readers.read_jsonl, _jsonl_chunks, compressible=True),
        'json': Reader(readers.read_json, _json_chunks, compressible=True),
        'parquet': Reader(readers.read_parquet, _parquet_chunks, by_bytes=False),
        TFDS: Reader(readers.read_tfds, _tfds_chunks, by_bytes=False),
    }
)


def _formats() -> str:
    """The formats, for people."""
    *some, last = (f'.{name}' for name, reader in READERS.items() if reader.compressible)
    others = [f'.{name}' for name, reader in READERS.items() if not reader.compressible and name != TFDS]
    packed = f'{", ".join(some)} and {last} (each also with .gz or .zst)'
    return ', '.join([packed, *others, f'{TFDS}:NAME/CONFIG'])


FORMATS = _formats()
