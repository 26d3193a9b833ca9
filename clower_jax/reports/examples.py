"""Examples of a model at work, for its report: masked texts, words near words, wrong answers."""

from collections.abc import Mapping, Sequence

import numpy as np

from clower_jax.objectives.pretraining import SHOWN_ROWS
from clower_jax.reports.page import Block, MaskedText, Matrix, Section, Table, Token

TITLE = 'Examples'
VIEWS = {'char': 'characters', 'word': 'words'}
LONGEST = 300  # characters of a text that is shown
LONGEST_VIEW = 160  # tokens of a masked text


def of_pretraining(tokens: Sequence[str], outputs: Sequence[Mapping[str, np.ndarray]]) -> Section:
    """What the first held-out texts look like to each encoder; see `Pretrain.evaluate` for the outputs."""
    if not outputs:
        return Section(TITLE, ())
    shown = outputs[0]
    blocks: list[Block] = []
    for row in range(min(SHOWN_ROWS, len(shown['char_ids']))):
        for view, name in VIEWS.items():
            if f'{view}_ids' in shown:
                title = f'Held-out text {row + 1}, as {name}: what was masked, and the likeliest guesses'
                blocks.append(MaskedText(title, _masked(shown, view, row, tokens), view == 'word'))
    if 'anchor_ids' in shown:
        blocks += _words(shown, tokens)
    return Section(TITLE, blocks)


def _masked(shown: Mapping[str, np.ndarray], view: str, row: int, tokens: Sequence[str]) -> list[Token]:
    ids = np.trim_zeros(shown[f'{view}_ids'][row], 'b')[:LONGEST_VIEW]
    text = [Token(tokens[i].removeprefix('##')) for i in ids]
    parts = (shown[f'{view}_{name}'][row] for name in ('mlm_positions', 'mlm_labels', 'guesses', 'shares'))
    for position, label, guesses, shares in zip(*parts, strict=True):
        if label >= 0 and position < len(text):
            likeliest = [(tokens[i], float(share)) for i, share in zip(guesses, shares, strict=True)]
            text[position] = Token(text[position].text, tokens[label], likeliest)
    return text


def _words(shown: Mapping[str, np.ndarray], tokens: Sequence[str]) -> list[Block]:
    """Of the anchors: how near each word is to its characters and to other words."""
    rows, first_names = [], []
    for row in range(min(SHOWN_ROWS, len(shown['anchor_ids']))):
        for anchor in np.flatnonzero(shown['anchor_char_length'][row] > 0):
            word = tokens[shown['anchor_ids'][row, anchor]]
            near: dict[str, float] = {}  # a word may occur several times: its nearest occurrence
            nearest = (shown[f'near_{name}'][row, anchor] for name in ('ids', 'cosines'))
            for i, cosine in zip(*nearest, strict=True):
                if cosine > -1:
                    near.setdefault(tokens[i], float(cosine))
            listed = ', '.join(f'{name} {cosine:.2f}' for name, cosine in near.items())
            rows.append((word, f'{shown["anchor_cosines"][row, anchor, anchor]:.2f}', listed))
            first_names += [(anchor, word)] if row == 0 else []
    if not rows:
        return []
    head = ('word', 'cosine with its characters', 'nearest words of the batch to its characters')
    blocks: list[Block] = [Table(head, rows, 'Words, found by their characters')]
    if first_names:
        index = [anchor for anchor, _ in first_names]
        values = shown['anchor_cosines'][0][np.ix_(index, index)]
        title = 'Cosines in text 1, characters (rows) with words (columns): the diagonal belongs together'
        blocks.append(Matrix(title, [word for _, word in first_names], values.tolist()))
    return blocks


def of_mistakes(mistakes: Sequence[Mapping[str, str]], split: str) -> Section:
    """Wrong answers, as `objectives.base.ShowsMistakes` has them."""
    if not mistakes:
        return Section(TITLE, ())
    head = list(mistakes[0])
    rows = [[_cut(line.get(name, '')) for name in head] for line in mistakes]
    return Section(TITLE, [Table(head, rows, f'Wrong on {split}, the worst first')])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f'{text[:LONGEST]} …'
