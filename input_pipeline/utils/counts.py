"""How much was read, how much of it is used, and why the rest is not."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counts:
    """`read` = `kept` + the sum of `dropped`, which counts by reason."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def merge(self, other: 'Counts') -> None:
        """Adds other counts to these."""
        self.read += other.read
        self.kept += other.kept
        self.dropped.update(other.dropped)

    def to_json(self) -> dict[str, Any]:
        """The same as a dict, reasons in order."""
        return {'read': self.read, 'kept': self.kept, 'dropped': dict(sorted((+self.dropped).items()))}


class Ledger:
    """Counts by unit: 'rows' of files, 'texts', 'questions', 'answers', 'links'."""

    def __init__(self) -> None:
        self.units: dict[str, Counts] = {}

    def add(self, unit: str, read: int, kept: int, dropped: Mapping[str, int]) -> None:
        """Counts what a reader has read, beside what was counted before."""
        self.units.setdefault(unit, Counts()).merge(Counts(read, kept, Counter(dropped)))

    def drop(self, unit: str, reason: str, count: int) -> None:
        """Counts as dropped what was kept until now."""
        counts = self.units.setdefault(unit, Counts())
        counts.kept -= count
        counts.dropped[reason] += count

    def to_json(self) -> dict[str, dict[str, Any]]:
        """By unit, `Counts.to_json`."""
        return {unit: counts.to_json() for unit, counts in self.units.items()}


class _Nowhere(dict[str, Ledger]):
    def __missing__(self, _: str) -> Ledger:
        return Ledger()


NOT_COUNTED: Mapping[str, Ledger] = _Nowhere()  # ledgers of splits that nobody looks at


def move(ledgers: Mapping[str, Ledger], unit: str, count: int, source: str, target: str) -> None:
    """Counts what of the split `source` becomes the split `target`."""
    ledgers[source].drop(unit, f'kept as {target}', count)
    ledgers[target].add(unit, count, count, {})


def describe(counts: Mapping[str, Mapping[str, Any]]) -> str:
    """One line of `Ledger.to_json`: '9,600 rows read, 9,598 used; blank line 2'."""
    return ' · '.join(
        '; '.join(
            [
                f'{entry["read"]:,} {unit} read, {entry["kept"]:,} used',
                *(f'{reason} {count:,}' for reason, count in entry['dropped'].items()),
            ]
        )
        for unit, entry in counts.items()
    )
