"""What all figures share: they need no screen, and a label that no font can draw is numbered, with a key."""

import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

from input_pipeline.utils import output_file

log = logging.getLogger(__name__)

# Taken first where several fonts have the characters; Simplified forms, no serifs.
CHINESE_FONTS = (
    *('Noto Sans CJK SC', 'Noto Sans SC', 'Source Han Sans SC', 'WenQuanYi Zen Hei', 'WenQuanYi Micro Hei'),
    *('Noto Sans CJK JP', 'Microsoft YaHei', 'SimHei', 'PingFang SC', 'Heiti SC', 'Arial Unicode MS'),
)


def subplots(rows: int = 1, columns: int = 1, **settings: Any) -> tuple[Figure, Any]:
    """A figure that no window shows, and its axes, as `pyplot.subplots`; `figsize` and `layout` are the
    figure's."""
    figure = Figure(figsize=settings.pop('figsize', None), layout=settings.pop('layout', None))
    return figure, figure.subplots(rows, columns, **settings)


def colors() -> list[str]:
    """Those of lines, in their order."""
    return matplotlib.rcParams['axes.prop_cycle'].by_key()['color']


def drawable(texts: Sequence[str], path: str | Path) -> list[str]:
    """Texts of any language as a figure can draw them that `save` will write to `path`. Call it before they
    become part of the figure.

    Where matplotlib's font lacks their characters, an installed one that has them stands in. A text with a
    character that no installed font has is drawn as '#n', n being its place in `texts`, from 0; the key is
    the file `key_of(path)`, a line '#n⇥text' for each, and a warning names it.
    """
    plain = [' '.join(text.split()) for text in texts]
    missing = _extend_fonts({char for text in plain for char in text})
    numbered_indices = {index for index, text in enumerate(plain) if not missing.isdisjoint(text)}
    key_file = key_of(path)
    key_file.unlink(missing_ok=True)
    if numbered_indices:
        lines = (f'#{index}\t{plain[index]}\n' for index in sorted(numbered_indices))
        output_file.write_text(key_file, ''.join(lines))
        log.warning(
            '%s: no installed font has the characters of %d labels; they are numbered, and %s says what each '
            'is. A Chinese font, such as Noto Sans CJK (fonts-noto-cjk), shows them',
            *(path, len(numbered_indices), key_file),
        )
    # Between two $ matplotlib reads mathematics.
    return [
        f'#{index}' if index in numbered_indices else text.replace('$', r'\$')
        for index, text in enumerate(plain)
    ]


def save(figure: Figure, path: str | Path, dpi: int = 110, crop: bool = True) -> None:
    """Writes the figure, at its right side the name of the key, where `drawable` made one; `crop`: so large
    that all there is fits, with no more around it, which is found by drawing twice."""
    key = key_of(path)
    if key.exists():
        # Not below it, where a legend may be: with bbox_inches that keeps to the edge of the picture.
        text = f'labels with a # are in {key.name}'
        figure.text(1, 0.5, text, rotation=90, ha='left', va='center', fontsize=8)
    with output_file.atomic_write(Path(path)) as partial:
        figure.savefig(partial, dpi=dpi, bbox_inches='tight' if crop else None)


def key_of(path: str | Path) -> Path:
    """confusion.png → confusion-key.txt, beside it."""
    path = Path(path)
    return path.with_name(f'{path.stem}-key.txt')


def _extend_fonts(chars: set[str]) -> set[str]:
    """Adds to matplotlib's fonts what it takes to draw these characters; returns those that none has."""
    families: list[str] = matplotlib.rcParams['font.family']
    missing = chars.copy()
    for family in families:
        missing -= _characters(font_manager.findfont(font_manager.FontProperties(family=[family])))
    for name, path in _other_fonts() if missing else ():
        if missing & _characters(path):
            missing -= _characters(path)
            families = [*families, name]
        if not missing:
            break
    matplotlib.rcParams['font.family'] = families
    return missing


def _other_fonts() -> Iterator[tuple[str, str]]:
    """(name, file) of every font of the machine, Chinese ones first; also of those that were installed after
    matplotlib made its list."""
    fonts = font_manager.fontManager
    for path in {*font_manager.findSystemFonts()} - {font.fname for font in fonts.ttflist}:
        try:
            fonts.addfont(path)
        except (OSError, RuntimeError, ValueError) as error:
            log.debug('%s is no font: %s', path, error)
    matplotlib_data = matplotlib.get_data_path()  # its default, which is known, and fonts for formulas
    files = {font.name: font.fname for font in fonts.ttflist if not font.fname.startswith(matplotlib_data)}
    priority = {name: index for index, name in enumerate(CHINESE_FONTS)}
    for name in sorted(files, key=lambda name: (priority.get(name, len(priority)), name)):
        yield name, files[name]


@functools.cache
def _characters(path: str) -> frozenset[str]:
    """What a font file can draw."""
    return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
