"""The files that a run leaves: config.json, metrics.jsonl, curves.png, report.html; and its trackers."""

import copy
import json
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from clower_jax.export.bert_folder import find_manifest
from clower_jax.reports import run_report
from clower_jax.reports.history import History
from clower_jax.reports.page import Section
from clower_jax.training import trackers
from clower_jax.utils.metrics_file import EVENT, read_lines, rows_until
from input_pipeline.utils.output_file import naming_errors, write_text

log = logging.getLogger(__name__)

REDRAWN_AFTER = 60  # seconds; a drawing takes about one, of CPU time that the steps beside it would have


class Writer:
    """Writes to `workdir` from the first process; elsewhere every call does nothing.

    `start_step`: the step that the run goes on from. Lines of later steps, left by a run that was killed
    after its last checkpoint, are dropped: those steps will be taken again; so are those of step 0 where it
    begins. `writes`: False where nothing is to be written at all. `log_to`: what gets the metrics beside
    metrics.jsonl (`trackers`).
    """

    def __init__(
        self, workdir: str | Path, start_step: int = 0, writes: bool = True, log_to: str = 'tensorboard'
    ):
        self._enabled = writes and jax.process_index() == 0
        self._folder = Path(workdir)
        self._drawn_at = time.monotonic()
        self._settings: dict[str, Any] = {}
        self._manifest: dict[str, Any] | None = None
        self._path = self._folder / 'metrics.jsonl'
        if not self._enabled:
            return
        rows = rows_until(workdir, start_step)
        self._history = History(rows)  # what the report shows; metrics.jsonl is not read again
        self._folder.mkdir(parents=True, exist_ok=True)
        if unreadable := read_lines(self._path)[1]:
            numbers = ', '.join(map(str, unreadable))
            log.warning('%s: no metrics on line %s; left out, the others stay', self._path, numbers)
        write_text(self._path, ''.join(json.dumps(row) + '\n' for row in rows))
        self._trackers = trackers.create(log_to, self._folder)
        self._reporter = ThreadPoolExecutor(1)
        self._reporting: Future[None] | None = None

    def write_config(self, config: ConfigDict, tokens: Sequence[str], history: Sequence[dict] = ()) -> None:
        """config.json, every value as the run uses it, with the `history` of those that were others before
        (see `init_state.history`), and vocab.txt, one token a line."""
        if self._enabled:
            settings = json.loads(config.to_json()) | ({'history': list(history)} if history else {})
            self._settings = settings
            if config.task == 'pretrain':
                self._manifest = find_manifest(settings, self._folder, tokens, config.model.base_vocab_size)
            write_text(self._folder / 'config.json', json.dumps(settings, indent=2) + '\n')
            for tracker in self._trackers:
                tracker.settings(trackers.flat_settings(settings))
            write_text(self._folder / 'vocab.txt', ''.join(f'{t}\n' for t in tokens))

    def scalars(self, step: int, split: str, values: dict[str, float]) -> None:
        """One line of metrics.jsonl and the same scalars for the trackers."""
        if not self._enabled or not values:
            return
        self._append({'step': step, 'split': split, **values})
        for tracker in self._trackers:
            tracker.scalars(step, split, values)

    def sync(self) -> None:
        """Sees that every line so far is on the disk, before a checkpoint says that its steps are done."""
        if self._enabled:
            for path in (self._path, self._folder):
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)

    def event(self, step: int, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl, of the split EVENT, about what happened to the run before the step that
        comes after `step`."""
        if self._enabled:
            self._append({'step': step, 'split': EVENT, **values})

    def _append(self, row: dict[str, Any]) -> None:
        with naming_errors(self._path), self._path.open('a', encoding='utf-8') as out:
            out.write(json.dumps(row) + '\n')
        self._history.add(row)

    def report(self, now: bool, examples: Section | None = None) -> None:
        """Has report.html written, with `examples`, while the caller goes on; `close` waits for it. `now`: it
        is the last one, and curves.png is drawn for it. Else it is left out where the one before is still
        being written, and curves are drawn where a minute has passed since they were or the run began.

        Raises what went wrong with the one before.
        """
        if not self._enabled or (not now and self._reporting and not self._reporting.done()):
            return
        self._finish_report()
        draws = now or time.monotonic() - self._drawn_at > REDRAWN_AFTER
        if draws:
            self._drawn_at = time.monotonic()
        history = copy.deepcopy(self._history)  # as it is now: training goes on
        self._reporting = self._reporter.submit(self._write_report, history, draws, examples)

    def _write_report(self, history: History, draws: bool, examples: Section | None) -> None:
        if draws:
            # With matplotlib, which no step waits for.
            from clower_jax.reports import plots

            plots.draw_curves(history.rows, self._folder / 'curves.png')
        run_report.write(self._folder, self._settings, history, manifest=self._manifest, examples=examples)

    def _finish_report(self) -> None:
        """Waits for the report on its way. Raises what went wrong with it."""
        if self._reporting:
            self._reporting.result()

    def close(self) -> None:
        """Flushes what is not yet on disk. Raises what went wrong with the report on its way."""
        if not self._enabled:
            return
        for tracker in self._trackers:
            tracker.close()
        self._finish_report()
        self._reporter.shutdown()
