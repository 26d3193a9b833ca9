"""Labels of any language: drawn in a font that has their characters, or numbered, with a key."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.image import imread

from clower_jax.experiments import figure3
from clower_jax.experiments.figure3 import CONTROL, GROUPS, MEASURES
from clower_jax.reports.plots import draw_confusion
from clower_jax.utils import figures

MADE_UP = '\ue123\ue124'  # private characters, in no font but the one that a test makes
COUNTS = np.array([[3, 1], [1, 4]])


@pytest.fixture(autouse=True)
def fonts():
    """Matplotlib's fonts and family, as they were."""
    before = font_manager.fontManager.ttflist.copy()
    with plt.rc_context():
        yield
    font_manager.fontManager.ttflist[:] = before


def make_font(path, chars):
    """A font in which each of these characters is a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    square = pen.glyph()
    names = ['.notdef', *(f'u{ord(char):04X}' for char in chars)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(char): f'u{ord(char):04X}' for char in chars})
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({'familyName': 'Made Up', 'styleName': 'Regular'})
    font.setupOS2()
    font.setupPost()
    font.save(path)


def test_what_no_font_has_is_numbered_and_explained(tmp_path, caplog):
    texts = ['plain', MADE_UP, 'a $5 b $6', f'x\t{MADE_UP[0]}']
    assert figures.drawable(texts, tmp_path / 'a.png') == ['plain', '#1', r'a \$5 b \$6', '#3']
    key = tmp_path / 'a-key.txt'
    assert key.read_text('utf-8') == f'#1\t{MADE_UP}\n#3\tx {MADE_UP[0]}\n'
    assert f'{key} says what each is' in caplog.text and 'fonts-noto-cjk' in caplog.text
    assert figures.drawable(['plain'], tmp_path / 'a.png') == ['plain'] and not key.exists()


def test_an_installed_font_stands_in(tmp_path, monkeypatch):
    """Also one that was installed after matplotlib listed the fonts of this machine."""
    make_font(tmp_path / 'made_up.ttf', MADE_UP)
    found = font_manager.findSystemFonts()
    monkeypatch.setattr(
        font_manager, 'findSystemFonts', lambda: [*found, str(tmp_path / 'made_up.ttf'), 'none.ttf']
    )
    texts = [f'{MADE_UP} and more', 'plain']
    assert figures.drawable(texts, tmp_path / 'a.png') == texts
    draw_confusion(COUNTS, texts, tmp_path / 'a.png')  # a missing glyph is a warning, an error here
    assert not (tmp_path / 'a-key.txt').exists()


def confusion(name, path):
    draw_confusion(COUNTS, [name, 'other'], path)


def figure_3(name, path):
    values = {measure + side: np.arange(9.0) for measure in MEASURES for side in ('', CONTROL)}
    figure3.draw({name: dict.fromkeys(GROUPS, values)}, path)


@pytest.mark.slow
@pytest.mark.parametrize('draw', [confusion, figure_3])
def test_every_figure_has_its_key(tmp_path, draw):
    """And says so: the picture with a key is wider by the line that names it."""
    draw(MADE_UP, tmp_path / 'keyed.png')
    assert (tmp_path / 'keyed-key.txt').read_text('utf-8') == f'#0\t{MADE_UP}\n'
    draw('#0', tmp_path / 'plain.png')
    assert not (tmp_path / 'plain-key.txt').exists()
    keyed, plain = (imread(tmp_path / f'{name}.png') for name in ('keyed', 'plain'))
    assert keyed.shape[1] > plain.shape[1]
