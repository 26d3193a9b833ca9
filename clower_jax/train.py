"""The training loop, the only one: restore, step, log, evaluate, save."""

import collections
import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from clower_jax import evaluate, metrics, optim, precision, sharding, start
from clower_jax.checkpoint import Checkpoints
from clower_jax.checkpoint_files import BEST
from clower_jax.progress import Best, Clock, Progress, Stop
from clower_jax.train_step import make_train_step
from clower_jax.writer import Writer, rows_until

log = logging.getLogger(__name__)

ASK_EVERY = 5  # steps after which several processes ask each other whether to stop
PARTS = ('loss_', 'anchors')  # of what is held out, not on the console: what `loss` is made of, and counts
RUN_AHEAD = 2  # steps in flight: enough to keep a device busy, few enough to stop soon when asked to

Batches = Callable[..., Iterator[dict[str, np.ndarray]]]


class Programs(NamedTuple):
    """What several runs of one config share, so that everything is compiled once."""

    evaluator: evaluate.Evaluator
    optimizer: optax.GradientTransformation
    train_step: Callable


def programs_of(config: ConfigDict) -> Programs:
    """The programs of a resolved config, whatever its seed; they compile when they are first called."""
    evaluator = evaluate.Evaluator.of(config)
    optimizer = optim.optimizer(config)
    step = make_train_step(evaluator.task, optimizer, optim.learning_rate(config))
    return Programs(evaluator, optimizer, step)


class Job(NamedTuple):
    """What a run is to do; see `train`."""

    config: ConfigDict
    workdir: Path
    batches: Batches


def train(
    config: ConfigDict,
    workdir: str | Path,
    batches: Batches,
    vocabulary,
    score: evaluate.Score | None = None,
    programs: Programs | None = None,
    stop: Stop | None = None,
) -> dict[str, float]:
    """Trains to `config.total_steps`, from the newest checkpoint in `workdir` if there is one. Where no step
    is left to take, nothing in `workdir` changes.

    Args:
      config: resolved: every size is known.
      workdir: receives config.json, checkpoints/, metrics.jsonl, TensorBoard events, curves.png, and best/
        where `config.select` names the metric to choose by.
      batches: `batches(start_step=k, split='train', rows=(lo, hi))`, an endless iterator whose k-th batch is
        a pure function of k; with split='validation' one pass over the held-out set.
      vocabulary: of the data (see `token_rows.VocabularyLike`).
      score: held-out metrics that are no means over rows, from the task's outputs.
      programs: `programs_of(config)`, where another run has it already.
      stop: where several runs follow each other, so that a signal stops them all.

    Returns:
      The last held-out metrics ({} where nothing is held out, or nothing was left to do).

    Raises:
      FloatingPointError: `max_bad_steps` steps in a row had a gradient that is not finite.
    """
    return train_side_by_side([Job(config, Path(workdir), batches)], vocabulary, score, programs, stop)[0]


def train_side_by_side(
    jobs: Sequence[Job],
    vocabulary,
    score: evaluate.Score | None = None,
    programs: Programs | None = None,
    stop: Stop | None = None,
    before: Callable[[dict], dict[str, float]] | None = None,
) -> list[dict[str, float]]:
    """`train` for several jobs whose configs differ in the seed alone: a step of all is one program.

    Each run leaves what it would leave alone. One that stops early stays in the program, which would have to
    be compiled anew without it, but no more comes of it.

    Args:
      jobs: the workdirs are at the same step, and the batches of each step have the same shapes.
      before: with `eval_first`, what else is measured of the parameters before the first step; it is written
        as the split 'test'.

    Returns:
      What `train` returns, for each job.

    Raises:
      FloatingPointError: as `train`, for any of them.
      ValueError: the workdirs are not at the same step.
    """
    config = jobs[0].config
    programs = programs or programs_of(config)
    task = programs.evaluator.task
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop or Stop())
        stack.enter_context(jax.default_matmul_precision(precision.matmul_precision(config.dtype)))
        runs = [_Run(job, programs, vocabulary, stack) for job in jobs]
        first_step = runs[0].first_step
        if any(run.first_step != first_step for run in runs):
            steps = ', '.join(f'{run.job.workdir} at {run.first_step}' for run in runs)
            raise ValueError(f'only runs at the same step train side by side: {steps}')

        def due(step: int, every: int) -> bool:
            return step == config.total_steps or (every > 0 and step % every == 0)

        going = runs
        in_flight: collections.deque[list[dict]] = collections.deque()
        seen: set[tuple] = set()  # shapes of batches, each of which is compiled
        clock = Clock(task.step_flops(config))
        with Progress(config.total_steps, first_step, on=jax.process_index() == 0) as progress:

            def say(run: '_Run', text: str) -> None:
                progress.say(f'seed {run.job.config.seed}: {text}' if len(runs) > 1 else text)

            if config.eval_first and first_step == 0:
                for run in runs:
                    run.evaluate(0, score)
                    run.writer.scalars(0, 'test', before(run.state.params) if before else {})
                    say(run, _summary(0, run.held_out))
            for step in range(first_step + 1, config.total_steps + 1):
                for run in going:
                    if run.best.exhausted:
                        better = f'{config.select} got no better any more.'
                        say(run, f'Stopped early, before step {step}: {better}')
                going = [run for run in going if not run.best.exhausted]
                if not going:
                    break
                drawn = [next(run.batches) for run in runs]
                shapes = tuple((name, value.shape) for batch in drawn for name, value in batch.items())
                compiles = shapes not in seen
                seen.add(shapes)
                if compiles:
                    jax.block_until_ready(list(in_flight))  # what was asked for before counts
                with clock.paused() if compiles else contextlib.nullcontext():
                    states, measured = programs.train_step(
                        [run.state for run in runs], drawn, [run.key for run in runs]
                    )
                    if compiles:
                        jax.block_until_ready(measured)
                        clock.leave_out()
                for run, state, found in zip(runs, states, measured, strict=True):
                    run.state = state
                    if run in going:
                        run.pending.append(found)
                in_flight.append(measured)
                if len(in_flight) > RUN_AHEAD:
                    jax.block_until_ready(in_flight.popleft())
                if step == first_step + 1:  # the data are on their way by now: rates count from here
                    clock.restart()
                progress.advance(counts=not compiles)
                if due(step, config.log_every):
                    jax.block_until_ready(measured)  # steps in flight count as soon as they are done
                    lap = clock.lap(len(going[0].pending))
                    logged = [run.log(step, clock, lap) for run in going]
                    progress.log(step, _mean_of(logged), clock.seconds_for(config.total_steps - step))
                stopping = step < config.total_steps and stop.agreed(may_ask=step % ASK_EVERY == 0)
                evaluating = due(step, config.eval_every) and not stopping
                saving = stopping or due(step, config.checkpoint_every)
                if saving or evaluating:
                    jax.block_until_ready(states)  # steps in flight count as training
                with clock.paused():
                    for run in going:
                        if evaluating:
                            run.evaluate(step, score)
                            say(run, _summary(step, run.held_out))
                        if saving or run.best.exhausted:
                            run.save()  # after the evaluation: a restart from here knows its outcome
                if saving or evaluating:
                    progress.resume()
                if stopping:
                    for run in going:
                        run.writer.curves()
                    break
        for run in runs:
            run.writer.close()
    if stop.requested and going and int(going[0].state.step) < config.total_steps:
        log.info(
            'Stopped at step %d and saved; the same command goes on from there.', int(going[0].state.step)
        )
    return [run.held_out for run in runs]


class _Run:
    """A job on its way: its state, and what it writes. `stack` closes what is opened."""

    def __init__(self, job: Job, programs: Programs, vocabulary, stack: contextlib.ExitStack):
        config, workdir, batches = self.job = job
        self._evaluator = evaluator = programs.evaluator
        rows = sharding.local_rows(evaluator.mesh, config.batch_size)
        self._checkpoints = stack.enter_context(Checkpoints(workdir, config.keep_checkpoints))
        if damaged := self._checkpoints.set_damaged_aside():
            log.warning('Damaged checkpoints in %s were set aside: %s', workdir, '; '.join(damaged))
        self.state = start.first_state(
            config, workdir, evaluator.mesh, evaluator.task, programs.optimizer, self._checkpoints, vocabulary
        )
        self.first_step = int(self.state.step)
        self.best = Best(config.select, config.patience, rows_until(workdir, self.first_step))
        # Where no step is left to take, what the files say is how the run came about: they stay.
        goes_on = self.first_step < config.total_steps and not self.best.exhausted
        self.writer = Writer(workdir, self.first_step, writes=goes_on)
        self.writer.run(config, vocabulary.tokens, start.history(workdir, config, self.first_step))
        if config.select and goes_on:
            if lost := start.keep_best(workdir, self.best.step):
                log.warning('The best so far in %s is lost, and was set aside: %s', workdir, lost)
                self.writer.event(self.first_step, {'best_lost': lost})
                self.best.forget()
            self._best_folder = stack.enter_context(Checkpoints(workdir, folder=BEST))
        if damaged:
            self.writer.event(self.first_step, {'damaged_checkpoints': damaged})
        self.key = jax.random.key(config.seed)
        source = batches(start_step=self.first_step, split='train', rows=rows)
        self.batches = (sharding.place(evaluator.mesh, batch, config.batch_size) for batch in source)
        self._held_out_batches = functools.partial(batches, split='validation', rows=rows)
        self.pending: list[dict] = []  # what the steps since the last log line measured, on the device
        self.held_out: dict[str, float] = {}

    def log(self, step: int, clock: Clock, lap: tuple[int, float]) -> dict[str, float]:
        """Writes means over the steps since the last time, skipped ones left out and counted, and rates.

        Raises FloatingPointError where `max_bad_steps` of them in a row were skipped.
        """
        pending = jax.device_get(self.pending)
        self.pending.clear()
        values = _means(self._evaluator.task, pending, step, self.job)
        values |= clock.rates(values, lap)
        self.writer.scalars(step, 'train', values)
        return values

    def evaluate(self, step: int, score: evaluate.Score | None) -> None:
        """One pass over the held-out set; parameters that are the best so far are kept."""
        self.held_out = self._evaluator(self.state.params, self._held_out_batches(), score)
        if self.best.improves(step, self.held_out):
            self._best_folder.save_params(step, self.state.params)
        self.writer.scalars(step, 'validation', self.held_out)
        self.writer.curves()

    def save(self) -> None:
        """A checkpoint to go on from."""
        self._checkpoints.save(self.state)


def _mean_of(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over the runs of whatever all of them have."""
    names = [name for name in runs[0] if all(name in one for one in runs)]
    return {name: float(np.mean([one[name] for one in runs])) for name in names}


def _means(task, pending: list[dict], step: int, job: Job) -> dict[str, float]:
    bad = [int(measured['bad_steps']) for measured in pending]
    if max(bad) >= job.config.max_bad_steps:
        worst = bad.index(max(bad))
        first = step - len(pending) + 1 + worst - max(bad) + 1  # counted from 1
        replay = f'python -m clower_jax.replay --workdir {job.workdir} --step {first}'
        see = f'See the batch: {replay}. ' if job.config.task == 'pretrain' else ''
        raise FloatingPointError(
            f'The gradient was not finite in {max(bad)} steps in a row, from step {first} on. {see}What '
            'helps: a lower optim.learning_rate, or dtype=float32.'
        )
    means = metrics.means(measured['sums'] for measured in pending)
    values = {'skipped_steps': float(sum(b > 0 for b in bad))}
    if means:  # else every step was skipped
        values['loss'] = float(task.total(means))
    return values | means


def _summary(step: int, values: dict[str, float]) -> str:
    if not values:
        return f'step {step}: nothing is held out, so there is no evaluation'
    shown = {name: value for name, value in values.items() if not name.startswith(PARTS)}
    return f'step {step} held out: ' + '  '.join(f'{name} {value:.3f}' for name, value in shown.items())
