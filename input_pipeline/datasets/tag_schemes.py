"""Entities as spans and as tags: BIO and BIOES, and what any sequence of tags means."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

OUTSIDE = 'O'
SCHEMES: Mapping[str, str] = {'BIO': 'BI', 'BIOES': 'BIES'}  # with the prefixes that each has
# Other letters for the same: BMES, and BILOU.
_OTHER_LETTERS = {'M': 'I', 'L': 'E', 'U': 'S'}
_TAG = re.compile(r'O|[BIESMLU]-.*\S.*')


class Span(NamedTuple):
    """An entity: from … to (exclusive), in characters or in tokens, and its type."""

    start: int
    end: int
    type: str


def is_tag(text: str) -> bool:
    """Whether a text is O, or B-, I-, E- or S- (or the M-, L- and U- of other schemes) with a type."""
    return _TAG.fullmatch(text) is not None


def normalised(tag: str) -> str:
    """A tag of any scheme in the letters of BIOES."""
    return _OTHER_LETTERS.get(tag[0], tag[0]) + tag[1:] if tag[1:2] == '-' else tag


def entities(tags: Iterable[str]) -> list[Span]:
    """The entities that any sequence of tags means, well-formed or not, as CoNLL's conlleval and seqeval have
    them: an entity begins where its type does, too, and a B- is not needed.

    A tag is a letter, and after the first hyphen a type ('_' where there is none); it is not empty.
    """
    spans, start = [], 0
    previous, previous_type = OUTSIDE, ''
    for place, tag in enumerate([*tags, OUTSIDE]):
        letter, (bare, hyphen, rest) = tag[0], tag[1:].partition('-')
        type_ = (rest if hyphen else bare) or '_'
        changes = type_ != previous_type
        ends = previous in 'ES' or (previous in 'BI' and letter in 'BSO')
        if ends or (previous not in 'O.' and changes):
            spans.append(Span(start, place, previous_type))
        if letter in 'BS' or (previous in 'ESO' and letter in 'EI') or (letter not in 'O.' and changes):
            start = place
        previous, previous_type = letter, type_
    return spans


def tags_of(spans: Iterable[Span], length: int, scheme: str) -> list[str]:
    """A tag for each of `length` tokens, of spans in tokens that do not overlap; scheme: one of `SCHEMES`."""
    tags = [OUTSIDE] * length
    for start, end, type_ in spans:
        letters = ['B'] + ['I'] * (end - start - 1)
        if 'E' in SCHEMES[scheme]:
            letters = ['S'] if end - start == 1 else [*letters[:-1], 'E']
        tags[start:end] = [f'{letter}-{type_}' for letter in letters]
    return tags


def all_tags(types: Iterable[str], scheme: str) -> tuple[str, ...]:
    """Every tag that there can be: O, and those of each type in turn."""
    return (OUTSIDE, *(f'{letter}-{type_}' for type_ in types for letter in SCHEMES[scheme]))


def scheme_of(tags: Iterable[str]) -> str:
    """The scheme that these tags are of."""
    return 'BIOES' if any(tag.startswith(('E-', 'S-')) for tag in tags) else 'BIO'


def types_of(tags: Sequence[str]) -> tuple[str, ...]:
    """The types in these tags, in order."""
    return tuple(dict.fromkeys(tag[2:] for tag in tags if tag[1:2] == '-'))


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """In order, and of spans that overlap the longest; of equally long ones the first."""
    kept: list[Span] = []
    for span in sorted(set(spans), key=lambda span: (span.start - span.end, span)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return sorted(kept)
