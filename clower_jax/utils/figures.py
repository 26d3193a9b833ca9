"""What all figures share: they need no screen, and a label that no font can draw is numbered, with a key."""

import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib import font_manager
from matplotlib.figure import Figure

from input_pipeline.utils import output_file

matplotlib.use('Agg')
log = logging.getLogger(__name__)

# Taken first where several fonts have the characters; Simplified forms, no serifs.
CHINESE_FONTS = (
    *('Noto Sans CJK SC', 'Noto Sans SC', 'Source Han Sans SC', 'WenQuanYi Zen Hei', 'WenQuanYi Micro Hei'),
    *('Noto Sans CJK JP', 'Microsoft YaHei', 'SimHei', 'PingFang SC', 'Heiti SC', 'Arial Unicode MS'),
)


def drawable(texts: Sequence[str], path: str | Path) -> list[str]:
    """Texts of any language as a figure can draw them that `save` will write to `path`. Call it before they
    become part of the figure.

    Where matplotlib's font lacks their characters, an installed one that has them stands in. A text with a
    character that no installed font has is drawn as '#n', n being its place in `texts`, from 0; the key is
    the file `key_of(path)`, a line '#n⇥text' for each, and a warning names it.
    """
    plain = [' '.join(text.split()) for text in texts]
    lacking = _extend_fonts({char for text in plain for char in text})
    numbered = {place for place, text in enumerate(plain) if not lacking.isdisjoint(text)}
    key = key_of(path)
    key.unlink(missing_ok=True)
    if numbered:
        lines = (f'#{place}\t{plain[place]}\n' for place in sorted(numbered))
        output_file.write_text(key, ''.join(lines))
        log.warning(
            '%s: no installed font has the characters of %d labels; they are numbered, and %s says what each '
            'is. A Chinese font, such as Noto Sans CJK (fonts-noto-cjk), shows them',
            *(path, len(numbered), key),
        )
    # Between two $ matplotlib reads mathematics.
    return [
        f'#{place}' if place in numbered else text.replace('$', r'\$') for place, text in enumerate(plain)
    ]


def save(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Writes the figure, at its right side the name of the key, where `drawable` made one; closes it."""
    key = key_of(path)
    if key.exists():
        # Not below it, where a legend may be: with bbox_inches that keeps to the edge of the picture.
        text = f'labels with a # are in {key.name}'
        figure.text(1, 0.5, text, rotation=90, ha='left', va='center', fontsize=8)
    with output_file.whole(Path(path)) as partial:
        figure.savefig(partial, dpi=dpi, bbox_inches='tight')
    plt.close(figure)


def key_of(path: str | Path) -> Path:
    """confusion.png → confusion-key.txt, beside it."""
    path = Path(path)
    return path.with_name(f'{path.stem}-key.txt')


def _extend_fonts(chars: set[str]) -> set[str]:
    """Adds to matplotlib's fonts what it takes to draw these characters; returns those that none has."""
    families: list[str] = plt.rcParams['font.family']
    lacking = chars.copy()
    for family in families:
        lacking -= _characters(font_manager.findfont(font_manager.FontProperties(family=[family])))
    for name, path in _others() if lacking else ():
        if lacking & _characters(path):
            lacking -= _characters(path)
            families = [*families, name]
        if not lacking:
            break
    plt.rcParams['font.family'] = families
    return lacking


def _others() -> Iterator[tuple[str, str]]:
    """(name, file) of every font of the machine, Chinese ones first; also of those that were installed after
    matplotlib made its list."""
    fonts = font_manager.fontManager
    for path in {*font_manager.findSystemFonts()} - {font.fname for font in fonts.ttflist}:
        try:
            fonts.addfont(path)
        except (OSError, RuntimeError, ValueError) as error:
            log.debug('%s is no font: %s', path, error)
    own = matplotlib.get_data_path()  # its default, which is known, and fonts for formulas
    files = {font.name: font.fname for font in fonts.ttflist if not font.fname.startswith(own)}
    order = {name: place for place, name in enumerate(CHINESE_FONTS)}
    for name in sorted(files, key=lambda name: (order.get(name, len(order)), name)):
        yield name, files[name]


@functools.cache
def _characters(path: str) -> frozenset[str]:
    """What a font file can draw."""
    return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
