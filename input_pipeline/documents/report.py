"""What is dropped of the input: how often, why, and the first places where."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from input_pipeline.utils.counts import Counts

EXAMPLES_PER_REASON = 3
_BLOCK = 1 << 20  # bytes read at a time


@dataclass
class Report:
    """How often something happened, by reason, and the first few places where. Reasons counted by `read`:

    - of a paragraph (a line of a .txt) that is dropped: `not_utf8`, `line_too_long`, `nul` (it holds the
      character U+0000, which no text does: the file is binary, damaged, or in UTF-16);
    - of a document that is dropped: `empty_document`, `json_invalid`, `no_text_field` (all are missing or
      null), `text_not_string` (only that field, where there are several), and in .jsonl `line_too_long`;
    - `document_cut`: nothing is dropped; the document was too long and is read as several.

    `documents` and `paragraphs` are all that the input has; of records also paragraphs without a character
    (`blank`) are among the dropped, which are no problem. `pieces`: what comes of the documents kept.
    """

    counts: Counter[str] = field(default_factory=Counter)
    documents: Counts = field(default_factory=Counts)
    paragraphs: Counts = field(default_factory=Counts)
    pieces: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: str | None = None, count: int = 1) -> None:
        """Counts a reason; `where` is the place, such as a `Document.source`."""
        self.counts[reason] += count
        examples = self.examples.setdefault(reason, [])
        if where is not None and len(examples) < EXAMPLES_PER_REASON:
            examples.append(where)

    def drop_document(self, reason: str, where: str) -> None:
        """Counts a document of which nothing comes."""
        self.add(reason, where)
        self.documents.dropped[reason] += 1

    def drop_paragraph(self, reason: str, where: str) -> None:
        """Counts a paragraph that is dropped."""
        self.add(reason, where)
        self.paragraphs.dropped[reason] += 1

    def read(self) -> dict[str, Any]:
        """What was read, kept and dropped of documents and paragraphs, and the pieces."""
        documents, paragraphs = self.documents.to_json(), self.paragraphs.to_json()
        return {'documents': documents, 'pieces': self.pieces, 'paragraphs': paragraphs}

    def merge(self, other: 'Report') -> None:
        """Adds another report. Merged in the order of the chunks, the examples are the input's first."""
        self.counts.update(other.counts)
        self.documents.merge(other.documents)
        self.paragraphs.merge(other.paragraphs)
        self.pieces += other.pieces
        for reason, examples in other.examples.items():
            merged = self.examples.setdefault(reason, [])
            merged.extend(examples[: EXAMPLES_PER_REASON - len(merged)])

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
