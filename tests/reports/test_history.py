"""What a report keeps of a run's metrics: sums exactly, rows as many as it can show."""

import functools

import pytest

from clower_jax.reports import run_report
from clower_jax.reports.history import LAST, LONGEST, History
from clower_jax.reports.plots import select_panels
from clower_jax.training import run_log
from clower_jax.utils import metrics_file
from clower_jax.utils.metrics_file import EVENT


def rows_of(count):
    for step in range(1, count + 1):
        yield {'step': step, 'split': 'train', 'loss': 1 / step, 'skipped_steps': float(step % 3 == 0)}
        if step % 2 == 0:
            late = {'acc_late': 0.5} if step > 10 else {}
            yield {'step': step, 'split': 'validation', 'loss': 2 / step, **late}
        if step == 5:
            yield {'step': step, 'split': 'event', 'best_lost': 'a file'}


@pytest.mark.parametrize('count', [0, 1, 9, LONGEST - 1])
def test_of_few_rows_all_are_kept(count):
    rows = list(rows_of(count))
    history = History(rows)
    for split in ('train', 'validation'):
        assert history.series(split).rows == [row for row in rows if row['split'] == split]
    assert bool(history) == bool(rows)


@pytest.mark.parametrize('count', [LONGEST, LONGEST + 1, 5 * LONGEST + 7, 16 * LONGEST])
def test_of_many_rows_sums_stay_exact_and_rows_become_fewer(count):
    rows = list(rows_of(count))
    history = History(rows)
    assert (history.step, history.skipped_steps, len(history.events)) == (count, count // 3, 1)
    for split in ('train', 'validation'):
        series, all_rows = history.series(split), [row for row in rows if row['split'] == split]
        kept = [row['step'] for row in series.rows]
        assert series.count == len(all_rows) and list(series.newest) == all_rows[-LAST:]
        assert len(kept) <= LONGEST + LAST and kept == sorted(set(kept))
        assert kept[0] == all_rows[0]['step'] and kept[-1] == count - count % (2 if split != 'train' else 1)
        gaps = {after - before for before, after in zip(kept[:-LAST], kept[1:-LAST])}
        assert len(gaps) == 1, 'every part of the run is shown as finely'
    assert 'acc_late' in history.series('validation').names


def test_the_report_of_a_run_reads_its_metrics_once(tmp_path, monkeypatch):
    """At its start. What it shows is what the file has, of this process and of the one before."""
    writer = run_log.Writer(tmp_path)
    for row in rows_of(30):
        values = {name: value for name, value in row.items() if name not in ('step', 'split')}
        (writer.event if row['split'] == EVENT else functools.partial(writer.scalars, split=row['split']))(
            row['step'], values=values
        )
    writer.close()
    writer = run_log.Writer(tmp_path, start_step=20)
    shown = []
    monkeypatch.setattr(run_report, 'write', lambda folder, settings, history, **_: shown.append(history))
    monkeypatch.setattr(metrics_file, 'read_lines', None)
    monkeypatch.setattr(run_log, 'read_lines', None)
    monkeypatch.setattr(run_log, 'rows_until', None)
    for step in (22, 24):
        writer.scalars(step, 'train', {'loss': 0.5, 'skipped_steps': 2.0})
        writer.scalars(step, 'validation', {'loss': 0.25})
        writer.report(now=False)
    writer.close()
    monkeypatch.undo()
    in_file = History(metrics_file.read_metrics(tmp_path / 'metrics.jsonl'))
    assert shown[-1].rows == in_file.rows and in_file.step == 24
    assert shown[-1].skipped_steps == in_file.skipped_steps == 20 // 3 + 4
    assert select_panels(shown[-1].rows) == select_panels(in_file.rows)
