"""How a run begins: settings that make sense, then its newest checkpoint, or initial weights."""

import json
import logging
import os
import shutil
from pathlib import Path

import flax.traverse_util
import jax
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.checkpoints.digests import (
    BEST,
    DAMAGED_PREFIX,
    FOLDER,
    find_damage,
    newest_intact,
    quarantine,
    steps,
)
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.checkpoints.train_state import TrainState, abstract_state, sharded_state
from clower_jax.interop import hf_bert, init_weights, vocab_alignment, weight_sources
from clower_jax.objectives.base import Objective, Vocabulary
from clower_jax.parallel import precision, sharding
from clower_jax.training import optim, trackers
from clower_jax.utils import config_checks, config_keys
from clower_jax.utils.config_checks import flatten
from clower_jax.utils.run_config import read_run_config
from input_pipeline.utils.problem_types import SINGLE_LABEL

log = logging.getLogger(__name__)


def check(config: ConfigDict) -> None:
    """Raises ValueError for a setting that no data could make good, on these devices. Cheap: call it before
    making a corpus."""
    config_checks.check(config)
    trackers.check(config.log_to)
    _check_memory(config)
    if config.total_steps:
        optim.learning_rate(config)
    sharding.local_rows(sharding.make_mesh(config), config.batch_size)


def _check_memory(config: ConfigDict) -> None:
    """Raises ValueError where the devices together have not the memory for the parameters of one encoder with
    what the optimiser keeps of them, and one vector for each token of a batch: a run needs more."""
    model = config.model
    width, depth = max(1, model.hidden_size), model.num_layers
    parameters = depth * width * (4 * width + 2 * model.intermediate_size)
    parameters += width * (model.vocab_size + model.max_positions)
    length = config.data.get('max_length') or max(config.data.get(f'{x}_length', 0) for x in ('char', 'word'))
    tokens = config.batch_size // config.get('microbatches', 1) * max(1, length)
    # In fp32: parameter, gradient, both moments; a vector.
    needed, available = 4 * (4 * parameters + tokens * width), _total_memory()
    if needed > available:
        sizes = f'{parameters / 1e6:,.0f} M parameters and {tokens:,} tokens at a time'
        raise ValueError(
            f'{sizes} need more than {needed / 1e9:,.0f} GB of memory, and there are {available / 1e9:,.0f} '
            'GB: lower model.hidden_size, model.num_layers, model.intermediate_size, batch_size or the length'
        )


def _total_memory() -> int:
    """Bytes of memory of all devices together, as far as they may be used; of CPUs that of their machines."""
    stats_per_device = [device.memory_stats() or {} for device in jax.local_devices()]
    if all('bytes_limit' in stats for stats in stats_per_device):
        total = sum(stats['bytes_limit'] for stats in stats_per_device)
    else:
        total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return total * jax.process_count()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the host or on a device."""
    return isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error)


def check_workdir(config: ConfigDict, workdir: str | Path) -> None:
    """Raises ValueError where a run that is in `workdir` is of another task, or was started with other
    settings that decide its batches, as far as the config says them before its data are read. Cheap: call it
    before making a corpus."""
    if not init_weights.has_checkpoint(workdir):
        return
    before, _ = _saved_settings(Path(workdir), newest_intact(Path(workdir, FOLDER)).step or 0)
    if before['task'] != config.task:
        raise ValueError(
            f'{workdir} is of the task {before["task"]!r}, the config of {config.task!r}: give another '
            '--workdir'
        )
    now = flatten(json.loads(config.to_json()))
    # What is 0 or empty of these is found out from the data.
    known = {key: now[key] for key in now if now[key] or not key.startswith(('data.', 'model.'))}
    _check_batch_settings(workdir, before, known)


def check_source(config: ConfigDict) -> None:
    """Raises ValueError where `init_from` is nothing to start from, or its encoders have other sizes. Cheap:
    call it before making a corpus."""
    if not config.init_from:
        return
    info = weight_sources.source_info(config.init_from)
    mismatched = {
        key: info.model[key]
        for key in ('hidden_size', 'num_heads', 'intermediate_size', 'max_positions')
        if info.model[key] != config.model[key]
    }
    if mismatched:
        listed = ', '.join(f'{key}={value}' for key, value in mismatched.items())
        flags = ' '.join(f'--config.model.{key}={value}' for key, value in mismatched.items())
        raise ValueError(f'init_from={config.init_from} has {listed}, and the config others: give {flags}')


def restore_or_init(
    config: ConfigDict,
    workdir: str | Path,
    mesh: Mesh,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    checkpoints: Checkpoints,
    vocabulary: Vocabulary,
) -> TrainState:
    """The newest checkpoint of the workdir; else random parameters, or those of `init_from`.

    Raises ValueError where the checkpoint is of another model, vocabulary or order of batches, no checkpoint
    is intact, or `init_from` does not fit.
    """

    def create() -> TrainState:
        params = objective.init(jax.random.key(config.seed))
        return TrainState.create(params, optimizer, config.dtype, config.optim.initial_loss_scale)

    def create_scale() -> precision.LossScale:
        return precision.LossScale.create(config.dtype, config.optim.initial_loss_scale)

    step = checkpoints.latest_step
    if step is not None:
        before = _check_changed_settings(Path(workdir), config, step)
        vocab_alignment.check_vocabulary(
            Path(workdir) / 'vocab.txt', vocabulary.tokens, f'The run in {workdir}'
        )
        state = optim.exchanged(checkpoints.restore(abstract_state(mesh, create)))
        params = flax.traverse_util.flatten_dict(state.params, sep='/')
        precision.check_finite(params, f'The checkpoint of step {step} in {workdir}')
        if before.get('dtype') != config.dtype:
            state = state.replace(loss_scale=create_scale())
        if step < config.total_steps:
            log.info('Going on from step %d in %s', step, workdir)
        else:
            log.warning(
                '%s is already at step %d of %d: nothing is trained, and nothing in it changes. To go on '
                'raise --config.total_steps; to start afresh give another --workdir.',
                workdir, step, config.total_steps,
            )  # fmt: skip
        return state
    state = sharded_state(mesh, create)
    if config.init_from:
        try:
            source = weight_sources.source_info(config.init_from).folder
        except ValueError as error:
            raise ValueError(f"{error}. For random weights: --config.init_from=''") from error
        hf_bert.warn_about_tokenizer(source)
        params, report = init_weights.load_initial(
            state.params,
            config.init_from,
            vocabulary,
            config.model.num_heads,
            config.data.get('labels'),
            config.model.get('classify_from', 'pooler'),
            config.model.get('new_pooler', False),
            config.data.get('problem_type') or SINGLE_LABEL,
        )
        state = optim.start_from(state, params)
        log.info('Initial weights from %s', source)
        report.log()
    log.info(
        '%.1f M parameters, %s, %d × %s, mesh %s',
        sum(x.size for x in jax.tree.leaves(state.params)) / 1e6,
        config.dtype,
        jax.device_count(),
        jax.devices()[0].device_kind,
        dict(mesh.shape),
    )
    return state


def history(workdir: str | Path, config: ConfigDict, step: int) -> list[dict]:
    """The settings that changed in a run that goes on from `step` with `config`, in order.

    {'until_step': n, 'settings': {dotted key: value}}: up to step n these settings had other values than
    afterwards. Settings that no saved step was taken with are not in it.
    """
    if not step:
        return []
    before, earlier = _saved_settings(Path(workdir), step)
    now = flatten(json.loads(config.to_json()))
    changed = {key: value for key, value in before.items() if key in now and now[key] != value}
    return [*earlier, {'until_step': step, 'settings': changed}] if changed else earlier


def _saved_settings(workdir: Path, step: int) -> tuple[dict, list[dict]]:
    """The settings, flat, that the last steps up to `step` of a run were taken with, and its history until
    then.

    Raises ValueError where its config.json is missing or damaged.
    """
    try:
        saved = read_run_config(workdir)
    except ValueError as error:
        raise ValueError(
            f'{error}. It says how the steps in {workdir} were taken: put it back from a copy, or begin anew '
            'with another --workdir'
        ) from error
    entries = saved.pop('history', [])
    settings_then = flatten(saved)
    for entry in reversed(entries):
        if entry['until_step'] >= step:  # what came after it was never saved
            settings_then |= entry['settings']
    return settings_then, [entry for entry in entries if entry['until_step'] < step]


def prune_best(workdir: str | Path, step: int | None) -> str:
    """Empties best/ unless it is of `step`: what a run that was killed saved after its last checkpoint, or by
    another metric, is not the best of the run that goes on. Where it is damaged it is set aside; returns what
    was wrong with it, else ''."""
    folder = Path(workdir) / BEST
    if not folder.is_dir():
        return ''
    stale = steps(folder) != ([] if step is None else [step])
    reason = '' if stale or step is None else find_damage(folder / str(step))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('best')  # all have looked before one removes
    if jax.process_index() == 0:
        if stale:
            for old in steps(folder):
                shutil.rmtree(folder / str(old))
        elif step is not None and reason:
            quarantine(folder, step)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('best is gone')
    return f'{BEST}/{DAMAGED_PREFIX}{step}: {reason}' if reason else ''


def _check_changed_settings(workdir: Path, config: ConfigDict, step: int) -> dict:
    """The settings that the run had up to `step`, flat; says which are now different.

    Raises ValueError where one of them changed that decides the batches: a step could not be replayed.
    """
    before, _ = _saved_settings(workdir, step)
    now = flatten(json.loads(config.to_json()))
    changed = {key: f'{key}: {before.get(key)} → {now[key]}' for key in now if before.get(key) != now[key]}
    _check_batch_settings(workdir, before, now)
    if changed:
        log.warning('Settings changed since this run was started: %s', '; '.join(changed.values()))
    return before


def _check_batch_settings(workdir: str | Path, before: dict, now: dict) -> None:
    conflicts = [
        f'{key}: {before[key]} → {value}'
        for key, value in now.items()
        if config_keys.find(key).batches and before.get(key, value) != value
    ]
    if conflicts:
        raise ValueError(
            f'the run in {workdir} was started with other settings, which decide its batches or what is made '
            f'of them: {"; ".join(conflicts)}. Keep them, or start another run from its weights: '
            f'--workdir=OTHER --config.init_from={workdir}'
        )
