"""How a run begins: settings that make sense, then its newest checkpoint, or initial weights."""

import json
import logging
import os
import platform
import shutil
from pathlib import Path

import jax
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax import hugging_face, initial, optim, precision, sharding, token_rows
from clower_jax.checkpoint import BEST, Checkpoints
from clower_jax.train_state import TrainState, abstract_state, sharded_state

log = logging.getLogger(__name__)

# What the batches of the steps already taken depend on, beside the text, and what is made of them.
DECIDE_BATCHES = (
    'seed',
    'batch_size',
    'data.char_length',
    'data.word_length',
    'data.mask_rate',
    *('data.max_anchors', 'data.max_anchor_length'),
    'data.pack',
    'data.max_texts',
    *('data.masking', 'data.explored_masks', 'data.explore_whole', 'data.similar_words'),
    *('model.kind', 'model.pooling', 'model.classify_from', 'loss.sop_on', 'loss.contrast_on'),
    *(
        f'data.{key}'
        for key in ('train', 'dev', 'folder', 'dataset', 'dev_fraction', 'max_length', 'buckets')
    ),
    *(f'data.{key}' for key in ('labels', 'text_columns', 'label_column', 'language')),
    *(f'data.{key}' for key in ('stride', 'max_question_length', 'simplify', 'max_strings', 'mask_span')),
    *(
        f'data.{key}'
        for key in (
            'test_fraction',
            'shuffle_positions',
            'mask_shortest',
            'latin_mask_span',
            'latin_mask_shortest',
        )
    ),
    *('data.alignment', 'data.max_aligned', 'data.segmenter', 'data.hmm'),
)
# What runs did that were begun before there were these settings.
WITHOUT = {
    'data.pack': False,
    'data.masking': 'words',
    'data.max_anchor_length': 4,
    'data.explored_masks': 1,
    'data.explore_whole': False,
    'model.kind': 'clower',
    'model.classify_from': 'pooler',
    'model.new_pooler': False,
    'loss.contrast_on': 'both',
    'data.test_fraction': 0.0,
    'data.shuffle_positions': False,
    'data.mask_shortest': 0,
    'data.latin_mask_shortest': 0,
}


def check(config: ConfigDict) -> None:
    """Raises ValueError for a setting that no data could make good. Cheap: call it before making a corpus."""
    found_out = (
        0 if config.task != 'pretrain' else 1
    )  # fine-tuning takes 0 for 'as the data or init_from say'
    rules = (
        ('seed', 0, 2**32 - 1),
        *((key, 1, None) for key in ('batch_size', 'microbatches', 'log_every', 'max_bad_steps')),
        *((key, 1, None) for key in ('data.max_texts', 'data.explored_masks', 'loss.cmlm_vectors')),
        *((f'model.{key}', found_out, None) for key in ('hidden_size', 'num_heads', 'intermediate_size')),
        ('total_steps', found_out, None),
        ('num_epochs', 0.0, None),
        *((key, 0, None) for key in ('eval_every', 'checkpoint_every', 'model.num_layers')),
        *((f'model.{key}', 0, 0.99) for key in ('dropout', 'attention_dropout')),
        ('loss.temperature', 1e-4, None),
        ('patience', 0, None),
        *((f'data.{key}_fraction', 0.0, 0.99) for key in ('dev', 'test')),
        *((key, 1, None) for key in ('seeds', 'seeds_at_once', 'data.stride', 'data.max_question_length')),
        *((key, 1, None) for key in ('data.n_best', 'data.max_answer_length')),
        ('data.max_length', 8, None),
        ('data.max_strings', 1, None),
        *((f'data.{key}', 0, None) for key in ('mask_span', 'mask_shortest', 'max_anchor_length', 'buckets')),
        *((f'data.latin_{key}', 0, None) for key in ('mask_span', 'mask_shortest')),
        ('data.mask_rate', 0.01, 0.99),
        ('data.max_aligned', 1, None),
        *((f'loss.{key}_weight', 0, None) for key in ('word', 'mlm')),
        ('loss.align_threshold', -1.0, 1.0),
        *((f'model.{key}', 0, 0.99) for key in ('drophead', 'feature_cutoff')),
        ('optim.warmup_fraction', 0.0, 0.99),
        ('optim.final_fraction', 0.0, 1.0),
    )
    values = flatten(config.to_dict())
    for key, low, high in rules:
        if key not in values:
            continue
        if values[key] < low or high is not None and values[key] > high:
            allowed = f'at least {low}' if high is None else f'from {low} to {high}'
            raise ValueError(f'{key}={values[key]} must be {allowed}')
    choices = {
        'mode': ('train', 'evaluate', 'predict'),
        'optim.schedule': optim.SCHEDULES,
        'data.scorer': ('cmrc', 'drcd'),
        'data.evaluation': ('similarity', 'retrieval'),
        'model.pooling': ('mean', 'cls'),
        'model.classify_from': ('cls', 'pooler', 'mean'),
    }
    for key in set(choices) & set(values):
        if values[key] not in choices[key]:
            raise ValueError(f'{key}={values[key]!r} must be one of {", ".join(choices[key])}')
    if values.get('model.new_pooler') and config.model.classify_from != 'pooler':
        raise ValueError(
            f'model.new_pooler=True, but model.classify_from={config.model.classify_from} reads no pooler'
        )
    if config.patience and not config.select:
        raise ValueError(f'patience={config.patience} needs select, the metric that it waits for')
    precision.compute_dtype(config.dtype)
    if config.total_steps:
        optim.learning_rate(config)
    sharding.local_rows(sharding.make_mesh(config), config.batch_size)


def keep_compiled() -> None:
    """Has JAX keep what it compiles for the next start, under $XDG_CACHE_HOME or ~/.cache, unless it was told
    where: JAX_COMPILATION_CACHE_DIR, empty for nowhere. A folder for each machine: what one compiles for its
    CPU another may not be able to run."""
    if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
        return
    caches = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(caches / 'clower_jax' / platform.node()))


def first_state(
    config: ConfigDict,
    workdir: str | Path,
    mesh: Mesh,
    task,
    optimizer: optax.GradientTransformation,
    checkpoints: Checkpoints,
    vocabulary: token_rows.VocabularyLike,
) -> TrainState:
    """The newest checkpoint of the workdir; else random parameters, or those of `init_from`.

    Raises ValueError where the checkpoint is of another model, vocabulary or order of batches, or `init_from`
    does not fit.
    """

    def create():
        return TrainState.create(task.init(jax.random.key(config.seed)), optimizer, config.dtype)

    step = checkpoints.latest_step
    if step is not None:
        before = _settings_before(Path(workdir), config)
        token_rows.check_vocabulary(Path(workdir) / 'vocab.txt', vocabulary.tokens, f'The run in {workdir}')
        state = checkpoints.restore(abstract_state(mesh, create))
        if before.get('dtype') != config.dtype:
            state = state.replace(loss_scale=precision.LossScale.create(config.dtype))
        if step < config.total_steps:
            log.info('Going on from step %d in %s', step, workdir)
        else:
            log.warning(
                '%s is already at step %d of %d. To go on raise --config.total_steps; to start afresh give '
                'another --workdir.', workdir, step, config.total_steps,
            )  # fmt: skip
        return state
    state = sharded_state(mesh, create)
    if config.init_from:
        try:
            source = initial.source_info(config.init_from)
        except ValueError as error:
            raise ValueError(f"{error}. For random weights: --config.init_from=''") from error
        hugging_face.warn_of_tokenizer(source.folder)
        params, report = initial.load_initial(
            state.params,
            config.init_from,
            vocabulary,
            config.model.num_heads,
            config.data.get('labels'),
            config.model.get('classify_from', 'pooler'),
            config.model.get('new_pooler', False),
        )
        state = state.replace(params=params)
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


def discard_best(workdir: str | Path, keep: int | None) -> None:
    """Removes best/ unless it is of step `keep`: what a run that was killed saved after its last checkpoint,
    or by another metric, is not the best of the run that goes on."""
    folder = Path(workdir) / BEST
    if not folder.is_dir():
        return
    with Checkpoints(workdir, read_only=True, folder=BEST) as checkpoints:
        stale = checkpoints.latest_step != keep
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('best')  # all have looked before one removes
    if stale and jax.process_index() == 0:
        shutil.rmtree(folder)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('best is gone')


def _settings_before(workdir: Path, config: ConfigDict) -> dict:
    """The settings that the run was started with, flat; says which are now different.

    Raises ValueError where one of them changed that decides the batches: a step could not be replayed.
    """
    path = workdir / 'config.json'
    if not path.is_file():
        return {}
    before = flatten(json.loads(path.read_text(encoding='utf-8')))
    now = flatten(json.loads(config.to_json()))
    changed = {key: f'{key}: {before.get(key)} → {now[key]}' for key in now if before.get(key) != now[key]}
    # A setting that there was not yet is of no account, unless it is another than what was done without it.
    fixed = [
        changed[key]
        for key in DECIDE_BATCHES
        if key in changed and before.get(key, WITHOUT.get(key, now[key])) != now[key]
    ]
    if fixed:
        raise ValueError(
            f'the run in {workdir} was started with other settings, which decide its batches or what is made '
            f'of them: {"; ".join(fixed)}. Keep them, or start another run from its weights: '
            f'--workdir=OTHER --config.init_from={workdir}'
        )
    if changed:
        log.warning('Settings changed since this run was started: %s', '; '.join(changed.values()))
    return before


def flatten(tree: dict, prefix: str = '') -> dict:
    """{'a': {'b': 1}} → {'a.b': 1}."""
    out: dict = {}
    for key, value in tree.items():
        out |= flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
    return out
