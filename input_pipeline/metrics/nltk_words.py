"""English words as NLTK's `word_tokenize` finds them, for the scorer of CMRC 2018, which calls it.

That function is two steps: Punkt cuts a text into sentences (Kiss & Strunk 2006, "Unsupervised Multilingual
Sentence Boundary Detection", Computational Linguistics 32), then rules in the manner of the Penn Treebank cut
a sentence into words. The scorer lower-cases first, and on lower-case text little of Punkt's English model
can decide anything: its abbreviations, and four of the 20,366 words whose cases it has recorded. With these
two tables neither NLTK nor the model, which NLTK downloads, is needed.

The result is that of NLTK 3.10.4. Releases differ: up to 3.9.2 dashes did not part words, and up to 3.10.0 a
quote did not part from the word that it opens. Like NLTK, this uses the `regex` module, whose notion of a
letter differs from that of `re` in combining marks.
"""

import re
import string
from collections.abc import Iterator

import regex

# ---- what matters of NLTK's Punkt model for English, trained by J. Strunk on the Wall Street Journal ----

ABBREVIATIONS = frozenset(
    """
    a.a a.c a.d a.g a.h a.m a.m.e a.s a.t adm ala ariz aug ave b.f b.v bros c c.i.t c.o.m.b c.v calif chg
    cie co col colo conn corp cos ct d d.c d.h d.w dec dr e e.f e.h e.l e.m f f.g f.j feb fla fri ft g g.d
    g.f g.k ga gen h h.c h.f h.m i.m.s ill inc j.b j.c j.j j.k j.p j.r jan jr k kan ky l l.a l.f l.p lt
    ltd m m.b.a m.d.c m.j maj messrs mg mich minn mr mrs ms n n.c n.d n.h n.j n.m n.v n.y nev nov oct ok
    okla ore p p.a.m p.m pa ph.d prof r r.a r.h r.i r.j r.k r.t rep reps s s.a s.a.y s.c s.g s.p.a s.s sen
    sep sept sr st sw t t.j tenn tues u.k u.n u.s u.s.a u.s.s.r v va vs vt w w.c w.r w.va w.w wash wed wis
    yr
    """.split()
)
# The only words seen in lower case where a sentence starts, and never in upper case.
STARTERS = frozenset(('administrators', 'b-week', 'r-revised', 'z-holiday'))

# ---- Punkt: text to sentences ----

_CLOSING = '"\')\\]}‘’“”«»'  # quotes and brackets that follow a sentence's last period
_NOT_IN_WORD = f'[;*:@({{\\[?!{_CLOSING}]'
_RUN = r'(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)'  # '--', '...', '. . .'
_BOUNDARY = regex.compile(rf'[.?!](?=(?P<after>{_NOT_IN_WORD}|\s+(?P<next>\S+)))')
_TOKEN = regex.compile(
    rf'{_RUN}|(?![("`{{\[:;&#*@)}}\]\-,])\S+?(?=\s|$|{_NOT_IN_WORD}|{_RUN}|,(?:$|\s|{_NOT_IN_WORD}|{_RUN}))|\S'
)
_NUMERIC = regex.compile(r'-?[.,]?\d[\d,.\-]*')
_INITIAL = regex.compile(r'[^\W\d]\.')
_TAIL = regex.compile(rf'[{_CLOSING}]+?(?:\s+|(?=--)|$)', regex.MULTILINE)

# ---- words ----

_APART = r' \g<0> '
# In NLTK's order, which matters: what one rule sets apart, a later one sees between spaces. (?i) although the
# text is in lower case: it makes 'ſ' an s and 'ı' an i.
_RULES = tuple(
    (regex.compile(pattern), replacement)
    for pattern, replacement in (
        ('[«“‘„]|`+', _APART),  # quotes that open
        ('^"', '``'),
        ('``', _APART),
        ("([ ([{<])(\"|'')", r'\1 `` '),
        (r"(?i)(?<!\w)'(?!(?:re|ve|ll|[mtsdn])\b)(?=\w)", "' "),
        (r'([^.])(\.)([\])}>"\'»”’ ]*+)\s*$', r'\1 \2 \3 '),  # the period that ends the sentence
        (r'([:,])(\D)', r' \1 \2'),  # but 3,000 and 12:30 stay whole
        ('[:,]$', _APART),
        (r'\.{2,}|[;@#$%&?!\u2012-\u2015]', _APART),
        ("([^'])' ", r"\1 ' "),
        (r'[*\[\](){}<>]|--', _APART),
        (r'\A|\Z', ' '),
        ("[»”’]|''", _APART),  # quotes that close
        ('"', " '' "),
        (r'\s+', ' '),
        ("([^' ])('[smd]?) ", r'\1 \2 '),  # it 's
        ("([^' ])('ll|'re|'ve|n't) ", r'\1 \2 '),  # is n't
    )
)
# R. MacIntyre's: written as one word, read as two. Here NLTK does use `re`.
_CONTRACTIONS = tuple(
    re.compile(rf'(?i){before}({first})({second}){after}')
    for first, second, before, after in (
        ('can', 'not', r'\b', r'\b'),
        ('d', "'ye", r'\b', r'\b'),
        ('gim', 'me', r'\b', r'\b'),
        ('gon', 'na', r'\b', r'\b'),
        ('got', 'ta', r'\b', r'\b'),
        ('lem', 'me', r'\b', r'\b'),
        ('more', "'n", r'\b', r'\b'),
        ('wan', 'na', r'\b', r'(?=\s)'),
        ("'t", 'is', ' ', r'\b'),
        ("'t", 'was', ' ', r'\b'),
    )
)


def word_tokenize(text: str) -> list[str]:
    """The words of a lower-case text: exactly those of NLTK 3.10.4's `nltk.word_tokenize(text)`.

    Raises ValueError if `str.lower` would change the text: for others, the tables here do not suffice.
    """
    if text != text.lower():
        raise ValueError(f'{text!r} is not in lower case; call word_tokenize(text.lower())')
    return [word for sentence in sentences(text) for word in _words(sentence)]


def sentences(text: str) -> list[str]:
    """The sentences of a lower-case text, without the whitespace between them (NLTK's `sent_tokenize`)."""
    spans = list(_spans(text))
    texts, skip = [], 0
    for (start, stop), following in zip(spans, [*spans[1:], None]):
        start, skip = start + skip, 0
        if following is not None and (tail := _TAIL.match(text[slice(*following)])):
            # Quotes and brackets after the period go with the sentence that they close.
            stop, skip = following[0] + len(tail[0].rstrip()), tail.end()
        if start < stop:
            texts.append(text[start:stop])
    return texts


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, stop) of the sentences, closing quotes and brackets still with the sentence after."""
    start = 0
    for boundary, context in _boundaries(text):
        # `strip` and the `\s` of regex differ on U+001C–1F: a line of nothing else has no token.
        lines = filter(str.strip, context.split('\n'))
        tokens = [token for line in lines for token in _TOKEN.findall(line)]
        if any(map(_ends_sentence, tokens, tokens[1:])):
            yield start, boundary.end()
            start = boundary.start('next') if boundary['next'] else boundary.end()
    yield start, len(text.rstrip())


def _boundaries(text: str) -> Iterator[tuple[regex.Match, str]]:
    """Where a sentence may end, with the context that decides it: the word there, and what follows.

    Of several such places in one word ('so?!)') the last one counts.
    """
    start = stop = 0  # of the word before the boundary
    boundary = None
    for match in _BOUNDARY.finditer(text):
        space = max(text.rfind(character, stop, match.start()) for character in string.whitespace)
        word = space + 1 if space > stop else start
        if boundary and stop <= word:
            yield boundary, text[start : boundary.end('after')]
        boundary, start, stop = match, word, match.start()
    if boundary:
        yield boundary, text[start : boundary.end('after')]


def _ends_sentence(token: str, following: str) -> bool:
    """Whether a sentence ends between the two (Kiss & Strunk 2006, sections 3 and 4, on lower-case text)."""
    if token in ('?', '!'):
        return True
    if not token.endswith('.') or token.endswith('..'):
        return False
    word = token.removesuffix('.')
    if word in ABBREVIATIONS or word.split('-')[-1] in ABBREVIATIONS:
        return False
    initial = _INITIAL.fullmatch(token)
    if not initial and not _NUMERIC.fullmatch(token):
        return True
    # After an initial or an ordinal, only what may start a sentence starts one. A letter that is upper case
    # to Unicode and has no lower case ('𝐀') is a name after an initial.
    if following in (*';:,.!?',) or (initial and following[0].isupper()):
        return False
    return not following[0].islower() or following.removesuffix('.') in STARTERS


def _words(sentence: str) -> list[str]:
    """The words of one sentence; a double quote becomes `` or ''."""
    for pattern, replacement in _RULES:
        sentence = pattern.sub(replacement, sentence)
    for contraction in _CONTRACTIONS:
        sentence = contraction.sub(r' \1 \2 ', sentence)
    return sentence.split()
