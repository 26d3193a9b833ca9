"""A page of HTML that needs nothing beside it: sections of text, tables, pictures and examples."""

import base64
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jinja2
import markdown_it
import markupsafe

from input_pipeline.utils import output_file

NAME = 'report.html'


@dataclasses.dataclass(frozen=True)
class Markdown:
    """Text. HTML in it is shown, not used."""

    text: str


@dataclasses.dataclass(frozen=True)
class Code:
    """Lines that are shown as they are."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells under a head. folded: opened by a click."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ''
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG, which becomes a part of the page. wide: of many panels, which a narrow window scrolls."""

    path: Path
    title: str
    wide: bool = False

    @property
    def data(self) -> str:
        """Its bytes as a URL."""
        return f'data:image/png;base64,{base64.b64encode(self.path.read_bytes()).decode()}'


@dataclasses.dataclass(frozen=True)
class Token:
    """A token of a text as the model read it. Where it was to be predicted: `truth`, and its likeliest
    `guesses` with their probabilities."""

    text: str
    truth: str = ''
    guesses: Sequence[tuple[str, float]] = ()

    @property
    def right(self) -> bool:
        """Whether the first guess is the truth."""
        return bool(self.guesses) and self.guesses[0][0] == self.truth


@dataclasses.dataclass(frozen=True)
class MaskedText:
    """A text with masks and what was predicted there."""

    title: str
    tokens: Sequence[Token]
    spaced: bool  # whether a space stands between tokens: words, not characters


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Numbers from −1 to 1, [len(names), len(names)], as shades."""

    title: str
    names: Sequence[str]
    values: Sequence[Sequence[float]]


Block = Markdown | Code | Table | Picture | MaskedText | Matrix


@dataclasses.dataclass(frozen=True)
class Section:
    """What stands under one heading; without blocks it is left out."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """What links within the page call it."""
        return self.title.lower().replace(' ', '-')


def write(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """`folder/report.html`, whole or not at all."""
    page = _template().render(title=title, sections=[section for section in sections if section.blocks])
    output_file.write_text(folder / NAME, page)


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # whatever a file or a text holds, it is shown
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        'markdown': lambda text: markupsafe.Markup(_markdown().render(text)),
        'kind': lambda block: type(block).__name__,
    }
    return environment.get_template('report.html.jinja')


@functools.cache
def _markdown() -> markdown_it.MarkdownIt:
    return markdown_it.MarkdownIt('commonmark', {'html': False}).enable('table').disable('image')
