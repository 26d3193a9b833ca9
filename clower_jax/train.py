"""The training loop, the only one: restore, step, log, evaluate, save."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict
from tqdm import tqdm

from clower_jax import evaluate, metrics, optim, precision, sharding, start
from clower_jax.checkpoint import BEST, Checkpoints
from clower_jax.progress import Best, Clock, Stop
from clower_jax.train_step import make_train_step
from clower_jax.writer import Writer

log = logging.getLogger(__name__)

ASK_EVERY = 5  # steps after which several processes ask each other whether to stop
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


def train(
    config: ConfigDict,
    workdir: str | Path,
    batches: Batches,
    vocabulary,
    score: evaluate.Score | None = None,
    programs: Programs | None = None,
    stop: Stop | None = None,
) -> dict[str, float]:
    """Trains to `config.total_steps`, from the newest checkpoint in `workdir` if there is one.

    Args:
      config: resolved: every size is known.
      workdir: receives config.json, checkpoints/, metrics.jsonl, TensorBoard events, curves.png, and best/
        where `config.select` names the metric to choose by.
      batches: `batches(start_step=k, split='train', rows=(lo, hi))`, an endless iterator whose k-th batch is
        a pure function of k; with split='validation' one pass over the held-out set.
      vocabulary: of the data (see `initial.VocabularyLike`).
      score: held-out metrics that are no means over rows, from the task's outputs.
      programs: `programs_of(config)`, where another run has it already.
      stop: where several runs follow each other, so that a signal stops them all.

    Returns:
      The last held-out metrics ({} where nothing is held out, or nothing was left to do).

    Raises:
      FloatingPointError: `max_bad_steps` steps in a row had a gradient that is not finite.
    """
    evaluator, optimizer, train_step = programs or programs_of(config)
    mesh, task = evaluator.mesh, evaluator.task
    rows = sharding.local_rows(mesh, config.batch_size)
    key = jax.random.key(config.seed)
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(Stop())
        checkpoints = stack.enter_context(Checkpoints(workdir, config.keep_checkpoints))
        stack.enter_context(jax.default_matmul_precision(precision.matmul_precision(config.dtype)))
        state = start.first_state(config, workdir, mesh, task, optimizer, checkpoints, vocabulary)
        first_step = int(state.step)
        writer = Writer(workdir, first_step)
        writer.run(config, vocabulary.tokens)
        best = Best(config.select, config.patience, writer.rows)
        if config.select:
            start.discard_best(workdir, keep=best.step)
            best_folder = stack.enter_context(Checkpoints(workdir, folder=BEST))

        def due(step: int, every: int) -> bool:
            return step == config.total_steps or (every > 0 and step % every == 0)

        source = batches(start_step=first_step, split='train', rows=rows)
        held_out: dict[str, float] = {}
        pending: list[dict] = []
        clock = Clock(task.step_flops(config))
        with tqdm(
            total=config.total_steps, initial=first_step, unit='step', disable=jax.process_index() != 0
        ) as bar:
            for step in range(first_step + 1, config.total_steps + 1):
                if best.exhausted:
                    bar.write(f'Stopped early, before step {step}: {config.select} got no better any more.')
                    break
                batch = sharding.place(mesh, next(source), config.batch_size)
                state, measured = train_step(state, batch, key)
                pending.append(measured)
                jax.block_until_ready(pending[-RUN_AHEAD - 1 : -RUN_AHEAD])
                if step == first_step + 1:  # compiled by now: rates count from here
                    jax.block_until_ready(measured)
                    clock.reset()
                bar.update()
                if due(step, config.log_every):
                    values = _aggregate(task, jax.device_get(pending), step, config, workdir)
                    values |= clock.rates(values, len(pending))
                    pending.clear()
                    writer.scalars(step, 'train', values)
                    bar.set_postfix(
                        {'loss': f'{values["loss"]:.3f}'} if 'loss' in values else {}, refresh=False
                    )
                stopping = step < config.total_steps and stop.agreed(may_ask=step % ASK_EVERY == 0)
                evaluating = due(step, config.eval_every) and not stopping
                saving = stopping or due(step, config.checkpoint_every)
                if saving or evaluating:
                    jax.block_until_ready(state)  # steps in flight count as training
                with clock.paused():
                    if evaluating:
                        held_out = evaluator(state.params, batches(split='validation', rows=rows), score)
                        if best.improves(step, held_out):
                            best_folder.save_params(step, state.params)
                        saving = saving or best.exhausted
                        writer.scalars(step, 'validation', held_out)
                        writer.curves()
                        bar.write(_summary(step, held_out))
                    if saving:  # after the evaluation: a restart from here knows its outcome
                        checkpoints.save(state)
                if stopping:
                    break
        writer.curves()
        writer.close()
    if stop.requested and int(state.step) < config.total_steps:
        log.info('Stopped at step %d and saved; the same command goes on from there.', int(state.step))
    return held_out


def _aggregate(task, pending: list[dict], step: int, config: ConfigDict, workdir) -> dict[str, float]:
    """Means over the steps since the last log line, skipped steps left out and counted.

    Raises FloatingPointError where `max_bad_steps` of them in a row were skipped.
    """
    bad = [int(measured['bad_steps']) for measured in pending]
    if max(bad) >= config.max_bad_steps:
        worst = bad.index(max(bad))
        first = step - len(pending) + 1 + worst - max(bad) + 1  # counted from 1
        replay = f'python -m clower_jax.replay --workdir {workdir} --step {first}'
        see = f'See the batch: {replay}. ' if config.task == 'pretrain' else ''
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
    pretraining = ('acc_mlm_char', 'acc_mlm_word', 'acc_sop', 'acc_tcl', 'acc_scl')
    names = ('loss', *pretraining, 'acc', 'macro_f1', 'em', 'f1', 'f1_drcd', 'f1_cmrc')
    return f'step {step} held out: ' + '  '.join(
        f'{name} {values[name]:.3f}' for name in names if name in values
    )
