"""What a corpus was made of and how: the counts that workers keep, the manifest's figures, their table."""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from input_pipeline.corpus.record_files import SPLITS, Shard
from input_pipeline.corpus.windows import SPECIAL_TOKENS, Window, Windows
from input_pipeline.documents.report import Report

DIGESTS = 1 << 64  # documents are chosen for validation by a digest of their text, which is less than this


@dataclass
class Tally:
    """What came of a chunk, or of several.

    `problems`: what the readers of the input met; `dropped`: documents read but not kept; `counts`: sums for
    the manifest; `shards`: of a chunk the file of each split; `records`: how many of each split; `lowest`: of
    the two documents kept with the smallest digests, the digest and the number of records.
    """

    problems: Report = field(default_factory=Report)
    dropped: Report = field(default_factory=Report)
    counts: Counter[str] = field(default_factory=Counter)
    shards: dict[str, Shard] = field(default_factory=dict)
    records: Counter[str] = field(default_factory=Counter)
    lowest: list[tuple[int, int]] = field(default_factory=list)

    def add_document(self, split: str, digest: int, document: Windows) -> None:
        """Counts a document that is kept."""
        self.lowest = sorted([*self.lowest, (digest, len(document.windows))])[:2]
        self.counts['documents'] += 1
        self.counts[f'{split}_documents'] += 1
        self.counts['sentences'] += document.sentences
        self.counts['characters'] += document.characters
        self.counts['windows_closed_by_word_length'] += document.closed_by_words

    def add_records(self, windows: Sequence[Window], unk: int) -> None:
        """Counts the words and tokens of records; `unk` is the id of [UNK]."""
        if not windows:
            return
        columns = map(np.concatenate, zip(*windows, strict=True))
        char_ids, word_ids, _, whole_word_tokens, _ = columns
        self.counts['words'] += len(whole_word_tokens)
        self.counts['oov_words'] += int(np.count_nonzero(whole_word_tokens > 1))
        self.counts['word_tokens'] += len(word_ids)
        self.counts['char_tokens'] += len(char_ids)
        self.counts['unk_tokens'] += int(np.count_nonzero(char_ids == unk))

    def merge(self, other: 'Tally') -> None:
        """Adds another tally to this one. Merge in the order of the chunks, for the reports' sake."""
        self.problems.merge(other.problems)
        self.dropped.merge(other.dropped)
        self.counts.update(other.counts)
        self.lowest = sorted(self.lowest + other.lowest)[:2]
        self.records.update(other.records)


def one_line(*reports: Report) -> str:
    """Reports for a message: 'not_utf8 3 (a.txt:7, …); nul 1 (b.txt:1)', and what may help."""
    reasons = [item for report in reports for item in report.to_json().items()]
    text = '; '.join(
        f'{reason} {entry["count"]} ({", ".join(entry["examples"])})' for reason, entry in reasons
    )
    return '. '.join(filter(None, [text or 'nothing dropped', advice(reason for reason, _ in reasons)]))


def advice(reasons: Iterable[str]) -> str:
    """What to do about such reasons of a `Report`, or ''."""
    if {'not_utf8', 'nul'}.isdisjoint(reasons):
        return ''
    return (
        'Text must be UTF-8; from Windows it is often GBK: iconv -f GB18030 -t UTF-8 old.txt > new.txt '
        '(-f UTF-16 where the reason is nul)'
    )


def versions(segmenter: str) -> dict[str, str]:
    """Of everything that has a say in the records."""
    packages = (segmenter, 'tokenizers', 'array_record', 'tensorflow-datasets', 'apache-beam')
    return {'python': platform.python_version()} | {
        package: importlib.metadata.version(package) for package in packages
    }


def statistics(total: Tally, char_length: int, word_length: int) -> dict[str, Any]:
    """The manifest's figures.

    Rates are shares between 0 and 1: `oov_rate` of the segmented words that were split into base tokens,
    `unk_rate` of the character tokens that are [UNK], `packing_rate` of the positions of all rows that are
    filled, [CLS] and [SEP] included. `windows_closed_by_word_length`: those that the word view filled first.
    """
    counts = total.counts
    records = {split: total.records[split] for split in SPLITS}
    rows = sum(records.values())
    tokens = {view: counts[f'{view}_tokens'] for view in ('char', 'word')}
    lengths = {'char': char_length, 'word': word_length}
    return {
        'documents': {
            'read': counts['documents'] + total.dropped.counts.total(),
            'kept': counts['documents'],
            **{split: counts[f'{split}_documents'] for split in SPLITS},
            'dropped': total.dropped.to_json(),
        },
        'input_read': total.problems.read(),
        'input_problems': total.problems.to_json(),
        'sentences': counts['sentences'],
        'characters': counts['characters'],
        'words': counts['words'],
        'tokens': tokens,
        'oov_rate': round(counts['oov_words'] / counts['words'], 6),
        'unk_rate': round(counts['unk_tokens'] / tokens['char'], 6),
        'packing_rate': {
            view: round((tokens[view] + SPECIAL_TOKENS * rows) / (rows * length), 6)
            for view, length in lengths.items()
        },
        'windows_closed_by_word_length': counts['windows_closed_by_word_length'],
        'records': records,
    }


def summary(manifest: dict[str, Any]) -> str:
    """A manifest's main figures as a table for a person."""
    documents, records = manifest['documents'], manifest['records']
    tokens, filled = manifest['tokens'], manifest['packing_rate']
    rows = [('documents read', f'{documents["read"]:,}'), ('documents kept', f'{documents["kept"]:,}')]
    for name, reasons in (('dropped', documents['dropped']), ('input', manifest['input_problems'])):
        for reason, entry in reasons.items():
            rows.append(
                (f'  {name}: {reason}', f'{entry["count"]:,} (first: {", ".join(entry["examples"])})')
            )
    fields = Counter(' and '.join(file['text_fields']) for file in manifest['input'] if 'text_fields' in file)
    if fields:
        files = (f'{name} ({n:,} {"file" if n == 1 else "files"})' for name, n in fields.items())
        rows.append(('text read from', ', '.join(files)))
    rows += [
        ('sentences', f'{manifest["sentences"]:,}'),
        ('characters', f'{manifest["characters"]:,}'),
        ('tokens', f'{tokens["char"]:,} in the character view, {tokens["word"]:,} in the word view'),
        ('words not in vocabulary', f'{manifest["oov_rate"]:.2%}'),
        ('characters as [UNK]', f'{manifest["unk_rate"]:.3%}'),
        ('rows filled', f'{filled["char"]:.1%} in the character view, {filled["word"]:.1%} in the word view'),
        ('records', ', '.join(f'{records[split]:,} {split}' for split in SPLITS)),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f'{name:<{width}}  {value}' for name, value in rows]
    share, wanted = records['validation'] / sum(records.values()), manifest['validation_fraction']
    if records['validation'] > 1 and share > 2 * wanted:
        lines.append(
            f'Warning: {share:.1%} of the records are held out for validation, not {wanted:.1%}: documents '
            'are held out whole, and these are few or long (in .txt, blank lines separate documents)'
        )
    return '\n'.join(filter(None, [*lines, advice(manifest['input_problems'])]))
