"""The files of a corpus folder: its manifest lists them with size and digest, and here they are compared.

A manifest holds a digest of itself, too. What was built before there were digests is still read, and says so.
"""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from input_pipeline.corpus.windows import SHORTEST
from input_pipeline.utils import output_file

log = logging.getLogger(__name__)

MANIFEST = 'manifest.json'
LONGEST = 1 << 20  # tokens of a row that a manifest may speak of
REMEDY = 'build the corpus again with python -m input_pipeline.build_corpus'
HOW_TO_BUILD = """  python -m input_pipeline.build_vocab --input 'text/*.txt' --output vocab.txt
  python -m input_pipeline.build_corpus --input 'text/*.txt' --vocab vocab.txt --output corpus"""
_THREADS = 16  # files looked at together

Listed = Mapping[str, Mapping[str, Any]]  # name → bytes, sha256 and, of a shard, records


def sha256(path: str | os.PathLike) -> str:
    """Of a file's bytes, in hexadecimal digits."""
    with epath.Path(path).open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def write_manifest(folder: Path, manifest: dict[str, Any], shards: Listed) -> dict[str, Any]:
    """Writes manifest.json, completed by the list of the folder's files and a digest of the manifest itself;
    returns it so.

    `shards`: those whose digests are known, with `bytes`, `sha256`, `records`; of others they are computed.
    """
    files = {
        path.name: shards.get(path.name) or {'bytes': path.stat().st_size, 'sha256': sha256(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = manifest | {'files': files}
    manifest['sha256'] = _digest(manifest)
    output_file.write_text(folder / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1) + '\n')
    return manifest


def _digest(manifest: Mapping[str, Any]) -> str:
    """Of everything in a manifest but its own digest."""
    rest = {key: value for key, value in manifest.items() if key != 'sha256'}
    text = json.dumps(rest, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """A corpus folder's manifest.json.

    Raises ValueError where the folder is no corpus, or a value in the manifest is of the wrong type, out of
    range, or not the one that was written.
    """
    path = Path(folder, MANIFEST)
    if not path.is_file():
        problem = f'is not a corpus: it has no {MANIFEST}' if Path(folder).exists() else 'does not exist'
        raise ValueError(f'{folder} {problem}. Make a corpus with\n{HOW_TO_BUILD}')
    try:
        manifest = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'{path} cannot be read ({reason}); restore it, or {REMEDY}') from error
    if problem := _problem(manifest):
        raise ValueError(f'{path}: {problem}; restore it, or {REMEDY}')
    return manifest


def _problem(manifest: Any) -> str:
    """What is wrong with a manifest's values, or ''."""
    if not isinstance(manifest, dict):
        return 'an object is expected'
    for key, (low, high) in _RANGES.items():
        value: Any = manifest
        for name in key.split('.'):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            return f'{key} is {str(value)[:40]}; it must be a whole number from {low} to {high}'
    vocabulary = manifest['vocabulary']
    if not isinstance(vocabulary.get('sha256'), str):
        return 'vocabulary.sha256 is missing'
    if vocabulary['base_size'] > vocabulary['size']:
        return f'vocabulary.base_size is {vocabulary["base_size"]}, over vocabulary.size'
    if 'files' in manifest and not _is_listing(manifest['files']):
        return 'files lists no files with bytes and sha256'
    if 'files' in manifest and manifest.get('sha256') != _digest(manifest):
        return 'it is not what it was when the corpus was made (its sha256 differs)'
    return ''


_RANGES = {
    **{name: (SHORTEST, LONGEST) for name in ('char_length', 'word_length')},
    **{f'{what}.{name}': (0, 1 << 60) for what, name in (
        ('records', 'train'), ('records', 'validation'), ('tokens', 'char'), ('tokens', 'word'),
    )},
    **{f'vocabulary.{name}': (1, 1 << 28) for name in ('size', 'base_size')},
}  # fmt: skip


def _is_listing(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(file, dict)
        and isinstance(file.get('bytes'), int)
        and isinstance(file.get('sha256'), str)
        and isinstance(file.get('records', 0), int)
        for file in files.values()
    )


def check(folder: str | os.PathLike) -> bool:
    """Compares sizes of all files, numbers of records of all shards and digests of what is small, which takes
    some milliseconds a file. Returns False for a corpus without a list of its files; the log says so once.

    Raises ValueError where a file is missing or is not what the manifest says; it names the file.
    """
    manifest = read_manifest(folder)
    if 'files' not in manifest:
        _warn_unlisted(os.fspath(folder))
        return False
    _compare(folder, manifest['files'], lambda listed: 'records' not in listed)
    return True


def verify(folder: str | os.PathLike) -> str:
    """Compares the digests of all files of a corpus; returns what was found in one line.

    Raises ValueError as `read_manifest` and `check`; or where there is no list of files.
    """
    manifest = read_manifest(folder)
    if 'files' not in manifest:
        raise ValueError(f'{folder} was built before digests were kept, so nothing can be verified; {REMEDY}')
    files = manifest['files']
    _compare(folder, files, lambda _: True)
    size = sum(file['bytes'] for file in files.values()) / 1e6
    records = sum(file.get('records', 0) for file in files.values())
    return f'{folder}: all {len(files)} files are intact ({size:,.1f} MB, {records:,} records)'


@functools.cache
def _warn_unlisted(folder: str) -> None:
    log.warning('%s was built before sizes and digests of its files were kept: it cannot be verified', folder)


def _compare(folder: str | os.PathLike, files: Listed, digests: Callable[[Mapping[str, Any]], bool]) -> None:
    def check_one(item: tuple[str, Mapping[str, Any]]) -> str:
        name, listed = item
        path = Path(folder, name)
        if Path(name).name != name or not path.is_file():
            return f'{path} is missing'
        if (size := path.stat().st_size) != listed['bytes']:
            return f'{path} has {size:,} bytes, not {listed["bytes"]:,}'
        if 'records' in listed and (problem := count_problem(path, listed['records'])):
            return problem
        if digests(listed) and sha256(path) != listed['sha256']:
            return f'{path} is not what it was when the corpus was made (its sha256 differs)'
        return ''

    with ThreadPoolExecutor(_THREADS) as pool:
        problems = list(filter(None, pool.map(check_one, files.items())))
    if problems:
        raise ValueError(refusal(problems))


def refusal(problems: Iterable[str]) -> str:
    """The first problem, how many others there are, and what to do."""
    first, *others = problems
    more = f' (and {len(others)} more files are damaged)' if others else ''
    return f'{first}{more}: get it again from where it was copied, or {REMEDY}'


def count_problem(path: Path, records: int) -> str:
    """What is wrong with a shard that should hold so many records, or ''; reads its end alone."""
    try:
        reader = ArrayRecordReader(os.fspath(path))
        count = reader.num_records()
        reader.close()  # which says what was wrong
    except RuntimeError as error:
        return f'{path} is damaged ({" ".join(str(error).split()) or "it is no array_record file"})'
    return '' if count == records else f'{path} has {count:,} records, not {records:,}'
