"""The training loop, the only one: restore, step, log, evaluate, save."""

import collections
import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from clower_jax.checkpoints.digests import BEST
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.checkpoints.train_state import TrainState
from clower_jax.objectives.base import SCORE, Metric, Vocabulary
from clower_jax.parallel import precision, sharding
from clower_jax.parallel.processes import StopSignal
from clower_jax.reports.page import Section
from clower_jax.training import evaluate, init_state, optim
from clower_jax.training.early_stopping import EarlyStopping
from clower_jax.training.progress import Clock, Progress
from clower_jax.training.run_log import Writer
from clower_jax.training.train_step import adversarial_radius, make_train_step
from clower_jax.utils.metrics_file import rows_until

log = logging.getLogger(__name__)

SYNC_STOP_EVERY = 5  # steps after which several processes ask each other whether to stop
# Steps at a run's end that make it an error: a loss scale that is too large skips one or two.
MAX_SKIPPED_AT_END = 3
MAX_IN_FLIGHT = 2  # steps in flight: enough to keep a device busy, few enough to stop soon when asked to
REMEDIES = (
    'What helps: a lower optim.learning_rate, dtype=float32 or, with float16, a lower '
    'optim.initial_loss_scale.'
)

Batches = Callable[..., Iterator[dict[str, np.ndarray]]]
Show = Callable[[evaluate.Outputs], Section]


class Programs(NamedTuple):
    """What several runs of one config share, so that everything is compiled once."""

    evaluator: evaluate.Evaluator
    optimizer: optax.GradientTransformation
    train_step: Callable


def make_programs(config: ConfigDict) -> Programs:
    """The programs of a resolved config, whatever its seed; they compile when they are first called."""
    evaluator = evaluate.Evaluator.from_config(config)
    optimizer = optim.optimizer(config)
    step = make_train_step(
        evaluator.objective, optimizer, optim.learning_rate(config), adversarial_radius(config)
    )
    return Programs(evaluator, optimizer, step)


def train(
    config: ConfigDict,
    workdir: str | Path,
    batches: Batches,
    vocabulary: Vocabulary,
    score: evaluate.Score | None = None,
    programs: Programs | None = None,
    stop: StopSignal | None = None,
    evaluate_before: Callable[[dict], dict[str, float]] | None = None,
    show: Show | None = None,
) -> dict[str, float]:
    """Trains to `config.total_steps`, from the newest checkpoint in `workdir` if there is one. Where no step
    is left to take, nothing in `workdir` changes.

    Args:
      config: resolved: every size is known.
      workdir: receives config.json, checkpoints/, metrics.jsonl, TensorBoard events, curves.png,
        report.html, and best/ where `config.select` names the metric to choose by.
      batches: `batches(start_step=k, split='train', rows=(lo, hi))`, an endless iterator whose k-th batch is
        a pure function of k; with split='validation' one pass over the held-out set.
      vocabulary: of the data.
      score: held-out metrics that are no means over rows, from the task's outputs.
      programs: `make_programs(config)`, where another run has it already.
      stop: where several runs follow each other, so that a signal stops them all.
      evaluate_before: with `eval_first`, what else is measured of the parameters before the first step; it is
        written as the split 'test'.
      show: makes examples for the report of the outputs of an evaluation.

    Returns:
      The last held-out metrics ({} where nothing is held out, or nothing was left to do).

    Raises:
      FloatingPointError: `max_bad_steps` steps in a row had a gradient or an update that is not finite; or
        the run came to its end with the last `MAX_SKIPPED_AT_END` steps, or half of all, skipped; that end is
        not saved.
    """
    programs = programs or make_programs(config)
    objective = programs.evaluator.objective
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop or StopSignal())
        stack.enter_context(jax.default_matmul_precision(precision.matmul_precision(config.dtype)))
        run = _Run(config, Path(workdir), batches, programs, vocabulary, stack, score, show)
        progress = stack.enter_context(
            Progress(config.total_steps, run.step, enabled=jax.process_index() == 0)
        )
        clock = Clock(objective.step_flops(config))
        in_flight: collections.deque[dict] = collections.deque()
        compiled_shapes: set[tuple] = set()  # of batches, each of which is compiled

        def is_due(step: int, every: int) -> bool:
            return step == config.total_steps or (every > 0 and step % every == 0)

        if config.eval_first and run.step == 0:
            run.evaluate(0)
            run.writer.scalars(0, 'test', evaluate_before(run.state.params) if evaluate_before else {})
            progress.write_line(_summary(0, run.held_out, objective.metrics))
        first_step = run.step + 1
        for step in range(first_step, config.total_steps + 1):
            if run.early_stopping.should_stop:
                progress.write_line(
                    f'Stopped early, before step {step}: {config.select} got no better any more.'
                )
                break
            batch = next(run.batches)
            shapes = tuple((name, value.shape) for name, value in batch.items())
            is_new_shape = shapes not in compiled_shapes
            compiled_shapes.add(shapes)
            if is_new_shape:
                jax.block_until_ready(list(in_flight))  # what was asked for before counts
            with clock.paused() if is_new_shape else contextlib.nullcontext():
                run.state, step_metrics = programs.train_step(run.state, batch, run.key)
                if is_new_shape:
                    jax.block_until_ready(step_metrics)
                    clock.exclude_step()
            run.step = step
            run.pending.append(step_metrics)
            in_flight.append(step_metrics)
            if len(in_flight) > MAX_IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            if step == first_step:  # the data are on their way by now: rates count from here
                clock.restart()
            progress.advance(timed=not is_new_shape)
            if is_due(step, config.log_every):
                jax.block_until_ready(step_metrics)  # steps in flight count as soon as they are done
                values = run.log(clock, clock.lap(len(run.pending)))
                progress.log(step, values, clock.seconds_for(config.total_steps - step))
            stopping = step < config.total_steps and stop.should_stop(synchronize=step % SYNC_STOP_EVERY == 0)
            evaluating = is_due(step, config.eval_every) and not stopping
            saving = stopping or is_due(step, config.checkpoint_every)
            if saving or evaluating:
                jax.block_until_ready(run.state)  # steps in flight count as training
            with clock.paused():
                if evaluating:
                    run.evaluate(step)
                    progress.write_line(_summary(step, run.held_out, objective.metrics))
                if step == config.total_steps or run.early_stopping.should_stop:
                    check_not_skipped(run.state, run.workdir)  # what is saved as finished learned
                if saving or run.early_stopping.should_stop:
                    run.save()  # after the evaluation: a restart from here knows its outcome
            if saving or evaluating:
                progress.resume()
            if stopping:
                run.writer.report(now=True, examples=run.examples)
                break
        run.writer.close()
    if stop.requested and run.step < config.total_steps and not run.early_stopping.should_stop:
        log.info('Stopped at step %d and saved; the same command goes on from there.', run.step)
    return run.held_out


class _Run:
    """A run on its way: its state, and what it writes. `stack` closes what is opened."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        batches: Batches,
        programs: Programs,
        vocabulary: Vocabulary,
        stack: contextlib.ExitStack,
        score: evaluate.Score | None,
        show: Show | None,
    ):
        self._config, self.workdir, self._score, self._show = config, workdir, score, show
        self.examples: Section | None = None
        self._evaluator = evaluator = programs.evaluator
        rows = sharding.local_rows(evaluator.mesh, config.batch_size)
        self._checkpoints = stack.enter_context(Checkpoints(workdir, config.keep_checkpoints))
        if damaged := self._checkpoints.quarantine_damaged():
            log.warning('Damaged checkpoints in %s were set aside: %s', workdir, '; '.join(damaged))
        self.state = init_state.restore_or_init(
            config,
            workdir,
            evaluator.mesh,
            evaluator.objective,
            programs.optimizer,
            self._checkpoints,
            vocabulary,
        )
        self.step = int(self.state.step)  # the last one taken
        self.early_stopping = EarlyStopping(config.select, config.patience, rows_until(workdir, self.step))
        # Where no step is left to take, what the files say is how the run came about: they stay.
        continues = self.step < config.total_steps and not self.early_stopping.should_stop
        self.writer = Writer(workdir, self.step, continues, config.log_to)
        self.writer.write_config(config, vocabulary.tokens, init_state.history(workdir, config, self.step))
        if config.select and continues:
            if damage := init_state.prune_best(workdir, self.early_stopping.best_step):
                log.warning('The best so far in %s is lost, and was set aside: %s', workdir, damage)
                self.writer.event(self.step, {'best_lost': damage})
                self.early_stopping.reset()
            self._best_checkpoints = stack.enter_context(Checkpoints(workdir, folder=BEST))
        if damaged:
            self.writer.event(self.step, {'damaged_checkpoints': damaged})
        self.key = jax.random.key(config.seed)
        source = batches(start_step=self.step, split='train', rows=rows)
        self.batches = (sharding.shard_batch(evaluator.mesh, batch, config.batch_size) for batch in source)
        self._held_out_batches = functools.partial(batches, split='validation', rows=rows)
        self.pending: list[dict] = []  # what the steps since the last log line measured, on the device
        self.held_out: dict[str, float] = {}

    def log(self, clock: Clock, lap: tuple[int, float]) -> dict[str, float]:
        """Writes means over the steps since the last time, skipped ones left out and counted, and rates.

        Raises FloatingPointError where `max_bad_steps` of them in a row were skipped.
        """
        pending = jax.device_get(self.pending)
        self.pending.clear()
        bad_steps = [int(step_metrics['bad_steps']) for step_metrics in pending]
        if max(bad_steps) >= self._config.max_bad_steps:
            worst = bad_steps.index(max(bad_steps))
            first = self.step - len(pending) + 1 + worst - max(bad_steps) + 1  # counted from 1
            replay = f'python -m clower_jax.replay --workdir {self.workdir} --step {first}'
            replay_hint = f'See the batch: {replay}. ' if self._config.task == 'pretrain' else ''
            raise FloatingPointError(
                f'The gradient or the update was not finite in {max(bad_steps)} steps in a row, from step '
                f'{first} on. {replay_hint}{REMEDIES}'
            )
        means = evaluate.means(step_metrics['sums'] for step_metrics in pending)
        values = {'skipped_steps': float(sum(skipped > 0 for skipped in bad_steps))}
        if values['skipped_steps'] < len(bad_steps):  # else there is none, though the loss scale has a mean
            values['loss'] = float(self._evaluator.objective.total_loss(means))
        values |= means
        values |= clock.rates(values, lap)
        self.writer.scalars(self.step, 'train', values)
        return values

    def evaluate(self, step: int) -> None:
        """One pass over the held-out set; parameters that are the best so far are kept."""
        params = optim.evaluated_params(self.state)

        def score(outputs: evaluate.Outputs) -> dict[str, float]:
            self.examples = self._show(outputs) if self._show else None
            return self._score(outputs) if self._score else {}

        self.held_out = self._evaluator(params, self._held_out_batches(), score)
        if self.early_stopping.update(step, self.held_out):
            self._best_checkpoints.save_params(step, params)
        self.writer.scalars(step, 'validation', self.held_out)
        at_end = step == self._config.total_steps or self.early_stopping.should_stop
        self.writer.report(now=at_end, examples=self.examples)

    def save(self) -> None:
        """A checkpoint to go on from."""
        self.writer.sync()
        self._checkpoints.save(optim.exchanged(self.state))


def check_not_skipped(state: TrainState, workdir: Path) -> None:
    """Raises FloatingPointError where a run, at its end, skipped half of its steps, or the last ones."""
    steps, streak = int(state.step), int(state.bad_steps)
    skipped = steps - int(optim.update_count(state.opt_state))
    if 2 * skipped >= steps or streak >= MAX_SKIPPED_AT_END:
        raise FloatingPointError(
            f'The run in {workdir} learned too little: in {skipped} of {steps} steps, {streak} of them at '
            f'its end, the gradient or the update was not finite. {REMEDIES}'
        )


def _summary(step: int, values: dict[str, float], metrics_by_name: Mapping[str, Metric]) -> str:
    if not values:
        return f'step {step}: nothing is held out, so there is no evaluation'
    headline = {name: value for name, value in values.items() if metrics_by_name.get(name, SCORE).shown}
    return f'step {step} held out: ' + '  '.join(f'{name} {value:.3f}' for name, value in headline.items())
