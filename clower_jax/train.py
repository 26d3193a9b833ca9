"""The training loop, the only one: restore, step, log, evaluate, save."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from clower_jax import convert, evaluate, metrics, optim, sharding
from clower_jax.checkpoint import Checkpoints
from clower_jax.progress import Clock, Stop
from clower_jax.tasks import Pretrain
from clower_jax.train_state import TrainState, abstract_state, sharded_state
from clower_jax.train_step import make_train_step
from clower_jax.writer import Writer

log = logging.getLogger(__name__)

RUN_AHEAD = 2  # steps in flight: enough to keep a device busy, few enough to stop soon when asked to

Batches = Callable[..., Iterator[dict[str, np.ndarray]]]


def train(config: ConfigDict, workdir: str | Path, batches: Batches, vocabulary) -> dict[str, float]:
    """Trains to `config.total_steps`, from the newest checkpoint in `workdir` if there is one.

    Args:
      config: resolved (`input_pipeline.batches.resolve`): every size is known.
      workdir: receives config.json, checkpoints/, metrics.jsonl, TensorBoard events, curves.png.
      batches: `batches(start_step=k, split='train', rows=(lo, hi))`, an endless iterator whose k-th batch is
        a pure function of k; with split='validation' one pass over the held-out set.
      vocabulary: of the corpus (see `convert.VocabularyLike`).

    Returns:
      The last held-out metrics ({} where nothing is held out).

    Raises:
      FloatingPointError: `max_bad_steps` steps in a row had a gradient that is not finite.
    """
    mesh = sharding.make_mesh(config)
    task = Pretrain.from_config(config, sharding.data_shards(mesh))
    rows = sharding.local_rows(mesh, config.batch_size)
    optimizer = optim.optimizer(config)
    with Checkpoints(workdir, config.keep_checkpoints) as checkpoints, Stop() as stop:
        state = _first_state(config, workdir, mesh, task, optimizer, checkpoints, vocabulary)
        start = int(state.step)
        writer = Writer(workdir, start)
        writer.run(config, vocabulary.tokens)
        train_step = make_train_step(task, optimizer, optim.learning_rate(config), config.seed)
        eval_step = evaluate.make_eval_step(task)

        def due(step: int, every: int) -> bool:
            return step == config.total_steps or (every > 0 and step % every == 0)

        source = batches(start_step=start, split='train', rows=rows)
        held_out: dict[str, float] = {}
        pending: list[dict] = []
        clock = Clock(config)
        with tqdm(
            total=config.total_steps, initial=start, unit='step', disable=jax.process_index() != 0
        ) as bar:
            for step in range(start + 1, config.total_steps + 1):
                batch = sharding.place(mesh, next(source), config.batch_size)
                state, measured = train_step(state, batch)
                pending.append(measured)
                jax.block_until_ready(pending[-RUN_AHEAD - 1 : -RUN_AHEAD])
                if step == start + 1:  # compiled by now: rates count from here
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
                stopping = stop.agreed(may_ask=due(step, config.log_every))
                with clock.paused():
                    if stopping or due(step, config.checkpoint_every):
                        checkpoints.save(state)
                    if due(step, config.eval_every) and not stopping:
                        held_out = evaluate.evaluate(
                            eval_step, task, state.params, batches(split='validation', rows=rows), mesh,
                            config.batch_size,
                        )  # fmt: skip
                        writer.scalars(step, 'validation', held_out)
                        writer.curves()
                        bar.write(_summary(step, held_out))
                if stopping:
                    break
        writer.curves()
        writer.close()
    if stop.requested:
        log.info('Stopped at step %d and saved; the same command goes on from there.', int(state.step))
    return held_out


def _first_state(config, workdir, mesh: Mesh, task, optimizer, checkpoints, vocabulary) -> TrainState:
    """The newest checkpoint of the workdir; else random parameters, or those of `init_from`."""

    def create():
        return TrainState.create(task.init(jax.random.key(config.seed)), optimizer, config.dtype)

    if checkpoints.latest_step is not None:
        _note_changes(Path(workdir) / 'config.json', config)
        state = checkpoints.restore(abstract_state(mesh, create))
        if checkpoints.latest_step < config.total_steps:
            log.info('Going on from step %d in %s', checkpoints.latest_step, workdir)
        else:
            log.warning(
                '%s is already at step %d of %d. To go on raise --config.total_steps; to start afresh give '
                'another --workdir.',
                workdir, checkpoints.latest_step, config.total_steps,
            )  # fmt: skip
        return state
    state = sharded_state(mesh, create)
    if config.init_from:
        params, report = convert.load_initial(state.params, config.init_from, vocabulary)
        state = state.replace(params=params)
        log.info('Initial weights from %s', config.init_from)
        for text, names in (('Left at random values', report.random), ('Not used', report.unused)):
            if names:
                log.info('%s (%d): %s', text, len(names), ', '.join(names))
    count = sum(x.size for x in jax.tree.leaves(state.params))
    log.info(
        '%.1f M parameters, %s, %d × %s, mesh %s',
        count / 1e6, config.dtype, jax.device_count(), jax.devices()[0].device_kind, dict(mesh.shape),
    )  # fmt: skip
    return state


def _note_changes(path: Path, config: ConfigDict) -> None:
    """Says which settings differ from those the run was started with."""
    if not path.is_file():
        return
    before = _flatten(json.loads(path.read_text(encoding='utf-8')))
    now = _flatten(json.loads(config.to_json()))
    changed = [f'{key}: {before.get(key)} → {now[key]}' for key in now if before.get(key) != now[key]]
    if changed:
        log.warning('Settings changed since this run was started: %s', '; '.join(changed))


def _flatten(tree: dict, prefix: str = '') -> dict:
    out: dict = {}
    for key, value in tree.items():
        out |= _flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
    return out


def _aggregate(task, pending: list[dict], step: int, config: ConfigDict, workdir) -> dict[str, float]:
    """Means over the steps since the last log line, skipped steps left out and counted.

    Raises FloatingPointError where `max_bad_steps` of them in a row were skipped.
    """
    bad = [int(measured['bad_steps']) for measured in pending]
    if max(bad) >= config.max_bad_steps:
        worst = bad.index(max(bad))
        first = step - len(pending) + 1 + worst - max(bad) + 1  # counted from 1
        raise FloatingPointError(
            f'The gradient was not finite in {max(bad)} steps in a row, from step {first} on. See the batch: '
            f'python -m clower_jax.replay --workdir {workdir} --step {first}. What helps: a lower '
            'optim.learning_rate, or dtype=float32.'
        )
    means = metrics.means(measured['sums'] for measured in pending)
    values = {'skipped_steps': float(sum(b > 0 for b in bad))}
    if 'loss_mlm_char' in means:
        values['loss'] = float(task.total(means))
    return values | means


def _summary(step: int, values: dict[str, float]) -> str:
    if not values:
        return f'step {step}: nothing held out (the corpus has no validation records), so no evaluation'
    names = ('loss', 'acc_mlm_char', 'acc_mlm_word', 'acc_sop', 'acc_tcl', 'acc_scl')
    return f'step {step} held out: ' + '  '.join(
        f'{name} {values[name]:.3f}' for name in names if name in values
    )
