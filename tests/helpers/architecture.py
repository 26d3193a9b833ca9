"""The picture of the packages: what imports what, and the way of a batch.

`PYTHONPATH=.:tests python -m helpers.architecture` draws docs/architecture.svg anew from the imports as they
are; tests/test_layout.py compares the two.
"""

import argparse
import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / 'docs' / 'architecture.svg'
PACKAGES = ('clower_jax', 'input_pipeline')
# Where packages stand in the picture: (from the left, from above).
PLACES = {
    'clower_jax': (3.1, 0), 'clower_jax.experiments': (4.8, 0.9), 'clower_jax.training': (1.1, 0.9),
    'clower_jax.reports': (1.1, 1.6), 'clower_jax.export': (1.1, 2.3), 'clower_jax.inference': (4.8, 2.0),
    'clower_jax.interop': (2.85, 3), 'clower_jax.objectives': (1.1, 4),
    'clower_jax.checkpoints': (3.1, 4), 'clower_jax.models': (1.1, 5), 'clower_jax.ops': (1.1, 6),
    'clower_jax.parallel': (2.1, 7), 'clower_jax.utils': (2.1, 8),
    'input_pipeline': (12.1, 0.9), 'input_pipeline.probing': (8.0, 1), 'input_pipeline.pretraining': (8.0, 2),
    'input_pipeline.finetuning': (10.4, 0.6), 'input_pipeline.sentence_vectors': (10.4, 2.5),
    'input_pipeline.corpus': (7.2, 3), 'input_pipeline.documents': (7.2, 4),
    'input_pipeline.metrics': (9.1, 3.5), 'input_pipeline.features': (11.3, 3.5),
    'input_pipeline.datasets': (12.1, 4.3),
    'input_pipeline.text': (10.4, 5), 'input_pipeline.utils': (11.7, 7),
}  # fmt: skip
COLOURS = {'clower_jax': '#dbe7f5', 'input_pipeline': '#e3f0dd'}
# The way of a batch: what there is, and the module that makes the next of it.
WAY = (
    ('text', 'input_pipeline/documents/readers.py'),
    ('characters\nand words', 'input_pipeline/text/dual_tokenizer.py'),
    ('records', 'input_pipeline/corpus/windows.py'),
    ('masked batch', 'input_pipeline/pretraining/masking.py'),
    ('hidden states\nof both views', 'clower_jax/models/clower.py'),
    ('losses', 'clower_jax/objectives/pretraining.py'),
    ('a step', 'clower_jax/training/train_step.py'),
    ('checkpoint', 'clower_jax/checkpoints/orbax_store.py'),
    ('BERT folder', 'clower_jax/export/bert_folder.py'),
)


@functools.cache
def parse(file: Path) -> ast.Module:
    """The syntax tree of a file, made once."""
    return ast.parse(file.read_text(encoding='utf-8'), filename=str(file))


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything the file imports, wherever; `from a import b` counts as `a.b`."""
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{file}:{node.lineno}: write the whole name instead of a relative import'
            yield from ((node.lineno, f'{node.module}.{alias.name}') for alias in node.names)


def package_of(name: str) -> str:
    """'clower_jax.ops.dropout.row_seeds' → 'clower_jax.ops'; 'clower_jax.Encoder' → 'clower_jax'."""
    top, _, rest = name.partition('.')
    folder = rest.partition('.')[0]
    return f'{top}.{folder}' if (ROOT / top / folder / '__init__.py').exists() and folder else top


def edges() -> set[tuple[str, str]]:
    """(package, what it imports) between the packages as they are."""
    found = set()
    for top in PACKAGES:
        for file in (ROOT / top).rglob('*.py'):
            package = package_of('.'.join(file.relative_to(ROOT).with_suffix('').parts))
            found |= {(package, package_of(name)) for _, name in imports(file)}
    return {(one, other) for one, other in found if one != other and other.split('.')[0] in PACKAGES}


def arrows() -> set[tuple[str, str]]:
    """The edges but those that others lead along: a package may import all that its arrows lead to."""
    all_of = edges()

    def reached(package: str) -> set[str]:
        below = {other for one, other in all_of if one == package}
        return below.union(*map(reached, below))

    return all_of - {(one, beyond) for one, other in all_of for beyond in reached(other)}


def drawn(picture: str) -> set[tuple[str, str]]:
    """The arrows of an SVG that `draw` made."""
    return set(re.findall(r'id="([\w.]+)→([\w.]+)"', picture))


def draw(path: Path) -> None:
    """Packages with their arrows above, the way of a batch below."""
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    plt.rcParams |= {'svg.fonttype': 'none', 'svg.hashsalt': 'architecture', 'font.family': 'DejaVu Sans'}
    figure, axis = plt.subplots(figsize=(13, 11.5))
    axis.set_xlim(0, 13)
    axis.set_ylim(-2.6, 9.1)
    axis.axis('off')
    width, height = 1.75, 0.52

    def box(x, y, wide, text, module, **style):
        colour = COLOURS[re.split('[./]', module)[0]]
        corner = x - wide / 2, y - height / 2
        axis.add_patch(
            FancyBboxPatch(corner, wide, height, boxstyle='round,pad=0.02', fc=colour, ec='#555555')
        )
        axis.text(x, y, text, ha='center', va='center', **style)

    places = {package: (x, 8.5 - row) for package, (x, row) in PLACES.items()}
    for package, place in places.items():
        top, _, name = package.partition('.')
        if name:
            box(*place, width, name, package, fontsize=10)
        else:
            box(*place, width, f'{top}\n(commands)', package, fontsize=9.5, weight='bold')
    for one, other in sorted(arrows()):
        (x, y), (to_x, to_y) = places[one], places[other]
        joins = one.split('.')[0] != other.split('.')[0]
        # Arrows that come from one side end a little on that side.
        end = to_x + 0.25 * min(max((x - to_x) / 2, -1), 1), to_y + height / 2 + 0.03
        start = x, y - height / 2 - 0.03
        if joins:
            start, end = (x + width / 2 - 0.05, y - height / 2 - 0.03), (to_x - width / 2 - 0.03, to_y)
        arrow = axis.annotate(
            '',
            end,
            start,
            arrowprops={
                'arrowstyle': '-|>', 'color': '#b3541e' if joins else '#444444', 'lw': 1.3 if joins else 1.0,
                'shrinkA': 0, 'shrinkB': 0,
            },
        )  # fmt: skip
        arrow.arrow_patch.set_gid(f'{one}→{other}')
    step = 12.6 / len(WAY)
    for number, (what, module) in enumerate(WAY):
        x = 0.2 + step * (number + 0.5)
        box(x, -1.3, step - 0.32, what, module, fontsize=8)
        axis.text(x, -1.72, module.replace('/', '/\n', 2), ha='center', va='top', fontsize=7, color='#444444')
        if number:
            axis.annotate(
                '', (x - step / 2 + 0.15, -1.3), (x - step / 2 - 0.15, -1.3),
                arrowprops={'arrowstyle': '-|>', 'color': '#444444', 'shrinkA': 0, 'shrinkB': 0},
            )  # fmt: skip
    axis.text(0.2, -0.75, 'The way of a batch, and the module that makes each', fontsize=10, weight='bold')
    key = 'An arrow leads to what a package imports; what arrows lead on to it may import, too.'
    axis.text(5.0, -0.25, f'{key}\nRed: from one package to the other.', fontsize=9, color='#444444')
    figure.savefig(path, bbox_inches='tight', metadata={'Date': None} if path.suffix == '.svg' else None)
    plt.close(figure)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--output', type=Path, default=PICTURE)
    draw(parser.parse_args().output)
