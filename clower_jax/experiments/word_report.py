"""What configs/words.py measured: words.json, words.md and words.png."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clower_jax.utils import figures
from input_pipeline.utils import output_file

COLUMNS = 4  # of panels
# In a panel, what differs between the points of a system.
MARKERS = 'osD^v<>P'


def write(workdir: Path, results: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Writes the three files; returns the table and where they are.

    Args:
      results: as `word_view.summarise` returns them. about: what else words.json holds; `counts` as
        `Materials.counts` has them.
    """
    output_file.write_json(workdir / 'words.json', {**about, **results})
    table = tables(results, about['counts'])
    output_file.write_text(workdir / 'words.md', table)
    draw(results['systems'], workdir / 'words.png')
    return f'{table}\nTables: {workdir}/words.md · {workdir}/words.json · figure: {workdir}/words.png'


def tables(results: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    """Markdown: a table of every figure, then one of the differences from each reference."""
    systems = results['systems']
    names = list(next(iter(systems.values())))
    seeds = max(
        len(figure['seeds']) for figures_by_name in systems.values() for figure in figures_by_name.values()
    )
    lines = [
        f'R² of a word2vec, {counts["words"]:,} words in {counts["sentences"]:,} held-out sentences '
        f'({counts["occurrences"]:,} occurrences), each word predicted by a ridge regression on others; ρ of '
        'Spearman with people; retrieval of the paraphrase among all second texts. In brackets 95 % of '
        "bootstrap samples of a figure's n items"
        + (
            f'; a value is the mean of up to {seeds} seeds, whose scatter is not in its interval.'
            if seeds > 1
            else '.'
        ),
        '',
        *_table(
            ('measure', 'n', *systems),
            (
                (name, f'{next(iter(systems.values()))[name]["count"]:,}')
                + tuple(
                    _cell(figures_by_name[name]['value'], figures_by_name[name]['interval'])
                    for figures_by_name in systems.values()
                )
                for name in names
            ),
        ),
    ]
    for reference, differences in results['differences'].items():
        lines += [
            '',
            f'Differences from {reference}, paired. Bold: the interval excludes 0, and the difference '
            'is larger than that between the seeds of either.',
            '',
            *_table(
                ('measure', *differences),
                (
                    (
                        name,
                        *(
                            _difference(
                                figures_by_name[name], (systems[system][name], systems[reference][name])
                            )
                            for system, figures_by_name in differences.items()
                        ),
                    )
                    for name in names
                ),
            ),
        ]
    return '\n'.join(lines) + '\n'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ['| ' + ' | '.join(row) + ' |' for row in (head, ['---'] * len(head), *rows)]


def _cell(value: float, interval: Sequence[float], sign: str = '') -> str:
    return f'{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]'


def _difference(figure_difference: Mapping[str, Any], both: Iterable[Mapping[str, Any]]) -> str:
    low, high = figure_difference['interval']
    scatter = max(max(figure['seeds']) - min(figure['seeds']) for figure in both)
    cell = _cell(figure_difference['difference'], figure_difference['interval'], '+')
    return f'**{cell}**' if (low > 0 or high < 0) and abs(figure_difference['difference']) > scatter else cell


def draw(systems: Mapping[str, Mapping[str, Mapping[str, Any]]], path: str | Path) -> None:
    """A panel for each set of items: for each system its figures with their intervals, a small dot for each
    seed. Of retrieval only the mean reciprocal rank is drawn."""
    panels: dict[str, dict[str, str]] = {}  # title → kind of vector → figure
    for name in next(iter(systems.values())):
        *items, kind = name.split('/')
        if not name.startswith('recall'):
            panels.setdefault(', '.join(items), {})[kind] = name
    names = figures.drawable([*systems], path)
    num_columns = min(COLUMNS, len(panels))
    num_rows = -(-len(panels) // num_columns)
    height = 1.3 + 0.42 * len(systems)
    figure, axes = figures.subplots(
        num_rows,
        num_columns,
        figsize=(3.6 * num_columns + 1.2, height * num_rows),
        squeeze=False,
        layout='constrained',
    )
    colors = figures.colors()
    for axis, (title, kinds) in zip(axes.flat, panels.items()):
        for kind_number, (kind, name) in enumerate(kinds.items()):
            shift = 0.6 * ((kind_number + 0.5) / len(kinds) - 0.5)
            positions = [position + shift for position in range(len(systems))]
            figures_of_systems = [system[name] for system in systems.values()]
            low, high = zip(*(system['interval'] for system in figures_of_systems))
            style: dict = {'color': colors[kind_number % len(colors)]}
            axis.hlines(positions, low, high, lw=1.5, alpha=0.6, **style)
            axis.plot(
                [system['value'] for system in figures_of_systems],
                positions,
                MARKERS[kind_number % len(MARKERS)],
                ms=5,
                label=kind,
                **style,
            )
            for position, system in zip(positions, figures_of_systems):
                axis.plot(system['seeds'], [position] * len(system['seeds']), '|', ms=7, **style)
        axis.set_title(title, fontsize=9)
        axis.set_yticks(range(len(systems)), names, fontsize=8)
        axis.tick_params(axis='x', labelsize=8)
        axis.set_ylim(len(systems) - 0.5, -0.5)
        axis.grid(axis='x', alpha=0.25)
        for position in range(1, len(systems)):
            axis.axhline(position - 0.5, color='black', lw=0.4, alpha=0.2)
        axis.legend(fontsize=7, frameon=False, loc='upper center', bbox_to_anchor=(0.5, -0.1), ncols=2)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figures.save(figure, path, dpi=120)
