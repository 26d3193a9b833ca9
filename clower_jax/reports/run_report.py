"""report.html: what a run was and came to, on one page, from the files in its workdir."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clower_jax.export import model_card
from clower_jax.objectives.registry import OBJECTIVES
from clower_jax.reports import environment, page
from clower_jax.reports.history import LAST, History
from clower_jax.reports.page import Block, Code, Markdown, Picture, Section, Table
from clower_jax.utils import config_keys
from clower_jax.utils.config_checks import flatten

CURVES = 'curves.png'
JOBS = {
    'pretrain': 'Pre-training',
    'tables': 'Systems × tasks × seeds',
    'similarity': 'Similarity of both encoders',
    'probe': 'Linear probes of frozen encoders',
    'words': 'What frozen encoders know of words',
    'vectors': 'Vectors of texts, as they are',
}


def write(
    folder: Path,
    settings: Mapping[str, Any],
    history: History | None = None,
    results: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    text: str = '',
    examples: Section | None = None,
) -> None:
    """Writes `folder/report.html`.

    Args:
      folder: its pictures (PNG) and tables (Markdown) become parts of the page as they are now.
      settings: as config.json has them, `history` among them.
      history: of metrics.jsonl. results: of results.json. manifest: of the corpus.
      text: what the run had to say at its end.
      examples: of the model at work.
    """
    results, history = results or {}, history or History()
    sections = (
        Section('What was run', _what(settings, history)),
        Section('Results', [*_scores(results), *_evaluations(history), *_tables(folder), *_said(text)]),
        Section('Figures', _pictures(folder)),
        examples or Section('', ()),
        Section('Data', _data(settings, results, manifest)),
        Section('Settings', _settings(settings)),
        Section('Environment', [Table(('', ''), environment.rows())]),
    )
    page.write(folder, f'{folder.resolve().name}: {_job(settings).lower()}', sections)


def _job(settings: Mapping[str, Any]) -> str:
    task = settings.get('task', 'pretrain')
    return JOBS.get(task, f'Fine-tuning ({task})' if task in OBJECTIVES else task)


def _what(settings: Mapping[str, Any], history: History) -> list[Block]:
    total = settings.get('total_steps')
    facts = [_job(settings)]
    kind = (settings.get('model') or {}).get('kind')
    facts += [f'of a model of the kind `{kind}`'] if kind else []
    if history and total:
        facts.append(f'step {history.step:,} of {total:,}, batches of {settings["batch_size"]:,}')
    skipped = history.skipped_steps
    facts += [f'{skipped:,} steps skipped, for their gradient was not finite'] if skipped else []
    blocks: list[Block] = [Markdown(', '.join(facts) + '.')]
    command = environment.command()
    if command:
        blocks += [Markdown('The command; with another `--workdir` it repeats the run:'), Code(command)]
    else:
        blocks.append(Markdown('It was started from Python, with the settings below.'))
    if history.events:
        what = [(f'{row["step"]:,}', _event(row)) for row in history.events]
        blocks.append(Table(('after step', 'what happened'), what, 'Events'))
    return blocks


def _event(row: Mapping[str, Any]) -> str:
    values = {name: value for name, value in row.items() if name not in ('step', 'split')}
    return '; '.join(f'{name}: {value}' for name, value in values.items())


def _scores(results: Mapping[str, Any]) -> list[Block]:
    """Of fine-tuning: every metric by split and by which parameters, with its spread over seeds."""
    by_split = results.get('mean') or {}
    deviations, seeds = results.get('std') or {}, len(results.get('per_seed', []))
    lines = []
    for split, by_time in by_split.items():
        for which, metrics in by_time.items():
            for name, value in metrics.items():
                spread = deviations.get(split, {}).get(which, {}).get(name)
                shown = model_card.number(value) + (f' ± {spread:.2g}' if spread is not None else '')
                lines.append((split, which, name, shown))
    title = f'Mean ± standard deviation of {seeds} seeds' if seeds > 1 else ''
    return [Table(('split', 'parameters', 'metric', 'value'), lines, title)] if lines else []


def _evaluations(history: History) -> list[Block]:
    """All evaluations or, of many, the first and the newest."""
    held_out = history.series('validation')
    if not held_out.count:
        return []
    names = [name for name in held_out.names if name not in ('step', 'split')]
    shown = held_out.rows if held_out.count <= LAST + 1 else [held_out.rows[0], *held_out.newest]
    lines = [
        (f'{row["step"]:,}', *(model_card.number(row[name]) if name in row else '' for name in names))
        for row in shown
    ]
    left_out = held_out.count - len(shown)
    title = f'Held out; {left_out:,} evaluations after the first are left out' if left_out else 'Held out'
    return [Table(('step', *names), lines, title)]


def _tables(folder: Path) -> list[Block]:
    return [Markdown(path.read_text(encoding='utf-8')) for path in sorted(folder.glob('*.md'))]


def _said(text: str) -> list[Block]:
    return [Code(text)] if text else []


def _pictures(folder: Path) -> list[Block]:
    paths = sorted(folder.glob('*.png'), key=lambda path: (path.name != CURVES, path.name))
    return [
        Picture(path, path.stem, wide=path.name == CURVES)
        for path in paths
        if not path.name.startswith('.')  # one that is being written
    ]


def _data(
    settings: Mapping[str, Any], results: Mapping[str, Any], manifest: Mapping[str, Any] | None
) -> list[Block]:
    blocks: list[Block] = []
    if settings.get('task') in ('pretrain', *OBJECTIVES):
        blocks.append(Markdown(model_card.training_data(settings, manifest)))
    lines = []
    if manifest:
        read = manifest.get('input_read', {})  # `pieces` is no unit of its own
        units = {f'{unit} of the input': read[unit] for unit in ('documents', 'paragraphs') if unit in read}
        units['documents, of these'] = manifest['documents']
        lines += [('corpus', unit, *_counted(counts)) for unit, counts in units.items()]
    for split, units in (results.get('data') or {}).items():
        lines += [(split, unit, *_counted(counts)) for unit, counts in units.items()]
    if lines:
        blocks.append(Table(('split', 'unit', 'read', 'kept', 'dropped, by reason'), lines))
    if manifest:
        facts = [
            (name, _shown(manifest[key]))
            for name, key in (
                ('sentences', 'sentences'), ('characters', 'characters'), ('words', 'words'),
                ('records', 'records'), ('tokens', 'tokens'), ('words not in the vocabulary', 'oov_rate'),
                ('positions that are filled', 'packing_rate'), ('versions', 'versions'),
                ('SHA-256', 'sha256'),
            )
            if key in manifest
        ]  # fmt: skip
        blocks.append(Table(('', ''), facts))
    return blocks


def _counted(counts: Mapping[str, Any]) -> tuple[str, str, str]:
    """read, kept and dropped of a unit, where reasons are counts or have a count and places."""
    dropped = {
        reason: drop['count'] if isinstance(drop, Mapping) else drop
        for reason, drop in counts.get('dropped', {}).items()
    }
    reasons = '; '.join(f'{reason} {count:,}' for reason, count in dropped.items())
    return f'{counts["read"]:,}', f'{counts["kept"]:,}', reasons or 'none'


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {_shown(part)}' for name, part in value.items())
    return f'{value:,}' if isinstance(value, int) else str(value)


def _settings(settings: Mapping[str, Any]) -> list[Block]:
    """Those that are not their key's default, then all; and what changed on the way."""
    config = dict(settings)
    history = config.pop('history', [])
    flat = flatten(config)
    blocks: list[Block] = []
    if history:
        changes = [
            (f'{entry["until_step"]:,}', key, str(before), str(flat.get(key, '')))
            for entry in history
            for key, before in entry['settings'].items()
        ]
        head = ('until step', 'setting', 'was', 'is now')
        blocks.append(Table(head, changes, 'Changed on the way'))
    declared = {key: config_keys.find(key) for key in flat}
    lines = [
        (key, str(value), '' if _is_default(key, value) else repr(declared[key].default), declared[key].about)
        for key, value in flat.items()
    ]
    head = ('setting', 'value', 'default, where it is another', 'what it is for')
    blocks.append(Table(head, [line for line in lines if line[2]], 'Not as the defaults are'))
    blocks.append(Table(head, lines, f'All {len(lines)} settings', folded=True))
    return blocks


def _is_default(key: str, value: Any) -> bool:
    default = config_keys.find(key).default
    return value == (list(default) if isinstance(default, tuple) else default)
