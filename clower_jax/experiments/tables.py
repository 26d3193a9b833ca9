"""The paper's tables 2 to 6 and its figure 2, with our figures beside its own, which are in paper.json."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from clower_jax.utils import figures
from input_pipeline.utils import output_file

PAPER = Path(__file__).with_name('paper.json')
AVERAGE = 'average'
# Split of results.json → how columns name it.
SPLITS = {'validation': 'dev', 'test': 'test'}
# A task's measures: how columns name them, what results.json calls them, and what to multiply by for percent.
CLASSIFICATION = (('', 'acc', 100.0),)
MEASURES = {
    'cmrc': ((' EM', 'em', 1.0), (' F1', 'f1', 1.0)),
    'drcd': ((' EM', 'em', 1.0), (' F1', 'f1_drcd', 1.0)),
}
ABLATIONS = (5, 6)  # tables of ablations, which have their own rows alone
FIGURE = (5, ('cmrc dev EM', 'drcd test EM'))  # figure 2: this table's columns, and these
# One system under two names: what the paper calls w/o tcl & scl is its MM-BERT-sop.
ALIASES = {'no_contrast': 'mm_bert_sop', 'mm_bert_sop': 'no_contrast'}
OWN_NAMES = {'macbert': 'MacBERT, re-trained'}  # the paper's is the released model
MISSING = '—'


class Cell(NamedTuple):
    """A model in a column: percent, one figure a seed."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Over the seeds, n − 1; NaN of one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


Grid = dict[tuple[str, str], Cell]  # (model, column); for the names of columns see `columns_of`
Numbers = dict[str, dict[str, float]]  # model → column → percent


class Table(NamedTuple):
    """One of the paper's tables. Its last column may be the average of the others."""

    number: int
    title: str
    columns: list[str]
    rows: Numbers


class Paper(NamedTuple):
    """What the paper prints: how it calls models and tasks, its tables, and where it contradicts itself, with
    the numbers of the tables that this is about."""

    source: str
    models: dict[str, str]
    tasks: dict[str, str]
    tables: list[Table]
    contradictions: list[tuple[list[int], str]]


def read_paper() -> Paper:
    """The figures that come with the package."""
    paper = json.loads(PAPER.read_text(encoding='utf-8'))
    tables = []
    for entry in paper['tables']:
        rows = {model: dict(zip(entry['columns'], row)) for model, row in entry['rows'].items()}
        tables.append(Table(entry['number'], entry['title'], entry['columns'], rows))
    contradictions = [(entry['tables'], entry['text']) for entry in paper['contradictions']]
    return Paper(paper['source'], paper['models'], paper['tasks'], tables, contradictions)


def read_numbers(path: str, tasks: Sequence[str]) -> Numbers:
    """Figures from elsewhere for columns of these tasks: JSON, {model: {column: percent}}; {} for no path.

    A task alone, as in 'bq', 'cmrc' or 'cmrc EM', is the test set, or the development set where the paper has
    no other, and F1 in reading comprehension.

    Raises ValueError where the file is none, or names a column that there is not.
    """
    if not path:
        return {}
    full_names = {task: f'{task} test' for task in tasks}
    for table in read_paper().tables:
        for column in table.columns:  # dev stands before test
            task, _, measure = (*column.split(), '', '')[:3]
            full_names[task if measure in ('', 'F1') else f'{task} {measure}'] = column
    known = {column for task in tasks for split in SPLITS for column in columns_of(task, split)}
    try:
        by_model = json.loads(Path(path).read_text(encoding='utf-8'))
        numbers = {
            model: {full_names.get(column, column): float(value) for column, value in row.items()}
            for model, row in by_model.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f'paper={path} is no file of numbers, {{model: {{column: number}}}}: {error}'
        ) from error
    for model, row in numbers.items():
        if unknown := sorted(row.keys() - known):
            raise ValueError(
                f'paper={path}: {model} has a number for {unknown[0]!r}, which must be one of '
                f'{", ".join(sorted(known))}'
            )
    return numbers


def columns_of(task: str, split: str) -> dict[str, tuple[str, float]]:
    """Column → (name in results.json, factor to percent): 'tnews dev', or 'cmrc dev EM' and 'cmrc dev F1'.

    `split`: 'validation', which the columns call dev, or 'test'.
    """
    measures = MEASURES.get(task, CLASSIFICATION)
    return {f'{task} {SPLITS[split]}{suffix}': (name, factor) for suffix, name, factor in measures}


def paired_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of the paired t-test over seeds; NaN with fewer than two, 1 where all are equal."""
    if len(a) < 2:
        return math.nan
    differences = np.subtract(a, b)
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_rel(a, b).pvalue)


def find_cell(grid: Grid, model: str, column: str) -> Cell | None:
    """A system that has two names may stand in the grid under either."""
    return grid.get((model, column)) or grid.get((ALIASES.get(model, model), column))


def average(grid: Grid, model: str, columns: Sequence[str]) -> Cell | None:
    """A model's mean over the columns, seed by seed; None unless it has them all, with the same seeds."""
    cells = [cell for column in columns if (cell := find_cell(grid, model, column))]
    if len(cells) < len(columns) or len({cell.seeds for cell in cells}) != 1:
        return None
    return Cell(cells[0].seeds, tuple(np.mean([cell.values for cell in cells], axis=0).tolist()))


def write(
    folder: Path,
    grid: Grid,
    models: Sequence[str],
    tasks: Sequence[str],
    reference: str,
    numbers: Numbers,
) -> str:
    """tables.md, tables.json and figure2.png of a grid, which need not be complete; returns the markdown.

    The tables are the paper's, with all of their columns and rows, as far as `tasks` has one of theirs; other
    models of the grid follow in tables 2 to 4. Tasks that are not the paper's have a table of their own, and
    so has what no other shows, such as ablations on a development set. The figure is of ablations: a grid
    without one has none. p is of the paired t-test over seeds against `reference`; `numbers`
    (`read_numbers`) go before the paper's own.
    """
    paper = read_paper()
    parts = [
        'Percent: accuracy, or exact match (EM) and F1, those of DRCD as its own script has them. Mean ± '
        f'standard deviation (n − 1) over seeds; p is of a paired t-test over seeds against {reference}; '
        'bold: the best mean. In brackets: the paper. An average is over all columns of its table, and '
        f'missing where one is. {paper.models["no_contrast"]} is {paper.models["mm_bert_sop"]}.\n\n'
        f'The figures in brackets: {paper.source}'
    ]
    other_models = [model for model in models if not any(model in table.rows for table in paper.tables)]
    unshown = dict.fromkeys(grid)  # of the cells, what no table has shown
    for table in paper.tables:
        rows = [*table.rows, *(other_models if table.number not in ABLATIONS else ())]
        in_grid = [row for row in rows if row in models or ALIASES.get(row) in models]
        is_covered = any(column.split()[0] in tasks for column in table.columns)
        if is_covered and (len(in_grid) > 1 or table.number not in ABLATIONS):
            shown = _table(grid, table, rows, reference, numbers, paper)
            notes = [text for about, text in paper.contradictions if table.number in about]
            parts.append('\n\n'.join([f'## Table {table.number}. {table.title}', shown, *notes]))
            for model, column in [key for key in unshown if key[1] in table.columns]:
                if model in rows or ALIASES.get(model) in rows:
                    del unshown[model, column]
    columns = list(dict.fromkeys(column for _, column in unshown))
    own_columns = [column for column in columns if column.split()[0] not in paper.tasks]
    other_columns = [column for column in columns if column not in own_columns]
    for title, columns in (('Not in the paper', own_columns), ("Not in the paper's tables", other_columns)):
        if columns:
            shown = _table(grid, Table(0, '', columns, {}), models, reference, numbers, paper)
            parts.append(f'## {title}\n\n{shown}')
    text = '\n\n'.join(parts) + '\n'
    output_file.write_text(folder / 'tables.md', text)
    cells = [_as_json(model, column, cell, paper) for (model, column), cell in grid.items()]
    output_file.write_json(folder / 'tables.json', cells)
    draw(grid, paper, folder / 'figure2.png')
    return text


def _as_json(model: str, column: str, cell: Cell, paper: Paper) -> dict[str, Any]:
    task, split, measure = (*column.split(), '')[:3]
    printed = (table.rows.get(model, {}).get(column) for table in paper.tables)
    return {
        'model': model, 'task': task, 'split': split, 'measure': measure or 'accuracy', 'seeds': cell.seeds,
        'values': cell.values, 'paper': next((x for x in printed if x is not None), None),
    }  # fmt: skip


def _table(
    grid: Grid, table: Table, rows: Sequence[str], reference: str, numbers: Numbers, paper: Paper
) -> str:
    """Markdown: a row a model, a column each of the table's."""
    own_columns = [column for column in table.columns if column != AVERAGE]
    lines = [['model', *(_heading(column, paper) for column in table.columns)]]
    lines.append(['---'] * len(lines[0]))
    by_column = {}
    for column in table.columns:
        cells_by_row = {
            row: average(grid, row, own_columns) if column == AVERAGE else find_cell(grid, row, column)
            for row in (*rows, reference)
        }
        by_column[column] = {row: cell for row, cell in cells_by_row.items() if cell}
    for row in rows:
        printed = table.rows.get(row, {}) | numbers.get(row, {})
        if row in numbers and AVERAGE in table.columns:  # of what is printed now, not of what was
            printed[AVERAGE] = statistics.fmean(printed.get(column, math.nan) for column in own_columns)
        name = paper.models.get(row) or OWN_NAMES.get(row, row)
        cells = [
            _shown(by_row, rows, row, reference, printed.get(column)) for column, by_row in by_column.items()
        ]
        lines.append([name, *cells])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _heading(column: str, paper: Paper) -> str:
    """'cmrc dev EM' → 'CMRC2018 dev EM'."""
    task, space, rest = column.partition(' ')
    return paper.tasks.get(task, task) + space + rest


def _shown(
    cells: Mapping[str, Cell], rows: Sequence[str], row: str, reference: str, printed: float | None
) -> str:
    """'**56.00 ± 1.41** (p 0.205) [67.15]', of it what there is."""
    parts = []
    if row in cells:
        own_cell = cells[row]
        text = f'{own_cell.mean:.2f}' + (f' ± {own_cell.deviation:.2f}' if len(own_cell.values) > 1 else '')
        best = max(cells[other].mean for other in rows if other in cells)
        parts.append(f'**{text}**' if own_cell.mean == best else text)
        if reference in cells and row != reference and cells[reference].seeds == own_cell.seeds:
            p = paired_p(own_cell.values, cells[reference].values)
            parts += [] if math.isnan(p) else [f'(p {p:.3f})']
    if printed is not None and not math.isnan(printed):
        parts += [] if parts else [MISSING]
        parts.append(f'[{printed:.2f}]')
    return ' '.join(parts) or MISSING


def draw(grid: Grid, paper: Paper, path: Path) -> None:
    """Figure 2: the ablations, for each task that the grid has; accuracy, or exact match. Our mean with its
    deviation and its seeds as dots, and hollow the paper's figure. Without an ablation there is no file."""
    number, more_columns = FIGURE
    printed: Numbers = {}
    for table in paper.tables:
        for model, row in table.rows.items() if table.number in ABLATIONS else ():
            printed[model] = printed.get(model, {}) | row
    columns = [column for table in paper.tables if table.number == number for column in table.columns]
    panels = [
        column
        for column in (*columns, *more_columns)
        if column != AVERAGE and any(find_cell(grid, model, column) for model in printed)
    ]
    ablated = [model for model in printed if any(find_cell(grid, model, column) for column in panels)]
    if len(ablated) < 2:
        path.unlink(missing_ok=True)
        return
    num_columns = min(5, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    figure, axes = figures.subplots(
        num_rows, num_columns, figsize=(3.0 * num_columns, 3.4 * num_rows), squeeze=False
    )
    colors = figures.colors()
    for axis, column in zip(axes.flat, panels):
        for position, model in enumerate(printed):
            color, cell = colors[position], find_cell(grid, model, column)
            axis.plot(position + 0.2, printed[model][column], 'D', ms=6, mfc='none', color=color)
            if cell:
                deviation = cell.deviation if len(cell.values) > 1 else 0.0
                axis.errorbar(position, cell.mean, deviation, fmt='s', ms=7, capsize=4, color=color)
                axis.plot([position] * len(cell.values), cell.values, '.', color='black', alpha=0.5)
        names = [paper.models[model] for model in printed]
        axis.set_xticks(range(len(names)), names, rotation=30, ha='right', fontsize=8)
        axis.set_xlim(-0.6, len(names) - 0.4)  # no marker is cut off at the edge
        axis.margins(y=0.15)
        measure = '' if column.endswith('EM') else ', accuracy'
        axis.set_title(_heading(column, paper) + measure, fontsize=10)
        axis.grid(axis='y', alpha=0.25)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel('percent')
    figure.suptitle('Ablations: filled ours, hollow the paper’s', fontsize=10)
    figure.tight_layout()
    figures.save(figure, path)
