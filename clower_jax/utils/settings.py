"""Settings: the range of every number, which of them decide the batches, and what no data could make good. It
is found without JAX, before the libraries are imported that take seconds to."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.utils.problem_types import PROBLEM_TYPES

DTYPES = ('float32', 'bfloat16', 'float16')  # that products are computed in
SCHEDULES = ('linear', 'cosine', 'wsd', 'constant')  # of the learning rate, after the warm-up


# From … to: what a number may be, by the last part of its key, in every job. Upper bounds of sizes catch
# slips: they are far above what any machine holds.
_STEPS, _COUNT, _ROWS = (0, 10**9), (1, 10**9), (0, 10**9)
_LENGTH, _RATE, _WEIGHT = (0, 2**20), (0.0, 0.99), (0.0, 1e6)
RANGES: dict[str, tuple[float, float]] = {
    'seed': (0, 2**32 - 1),
    **dict.fromkeys(('total_steps', 'eval_every', 'checkpoint_every', 'patience', 'warmup_steps'), _STEPS),
    **dict.fromkeys(('log_every', 'max_bad_steps'), _COUNT),
    **dict.fromkeys(('batch_size', 'microbatches'), (1, 2**20)),
    'keep_checkpoints': (0, 10**6),
    'num_epochs': (0.0, 1e6),
    'seeds': (1, 10**4),
    # mesh
    **dict.fromkeys(('data', 'fsdp', 'tensor'), (-1, 2**20)),
    # model
    'hidden_size': (0, 2**16),
    'num_layers': (0, 1024),
    'num_heads': (0, 2**12),
    **dict.fromkeys(('intermediate_size', 'max_positions'), (0, 2**20)),
    **dict.fromkeys(('vocab_size', 'base_vocab_size'), (0, 2**24)),
    **dict.fromkeys(('dropout', 'attention_dropout', 'drophead', 'feature_cutoff'), _RATE),
    'initializer_range': (0.0, 100.0),
    # optim
    'learning_rate': (0.0, 1000.0),
    'warmup_fraction': _RATE,
    'final_fraction': (0.0, 1.0),
    'weight_decay': (0.0, 1000.0),
    'clip_norm': (0.0, 1e9),
    'initial_loss_scale': (1.0, 2.0**24),
    # loss
    **dict.fromkeys(('sop_weight', 'contrast_weight', 'word_weight', 'mlm_weight'), _WEIGHT),
    'temperature': (1e-4, 1e4),
    'align_threshold': (-1.0, 1.0),
    'cmlm_vectors': (1, 10**4),
    # data
    'mask_rate': (0.01, 0.99),
    **dict.fromkeys(('dev_fraction', 'test_fraction', 'validation_fraction'), _RATE),
    **dict.fromkeys(('char_length', 'word_length', 'mask_span', 'mask_shortest'), _LENGTH),
    **dict.fromkeys(('latin_mask_span', 'latin_mask_shortest', 'max_anchor_length'), _LENGTH),
    'max_length': (8, 2**20),
    **dict.fromkeys(('stride', 'max_question_length', 'max_answer_length'), (1, 2**20)),
    **dict.fromkeys(('max_anchors', 'buckets'), (0, 10**4)),
    **dict.fromkeys(('max_texts', 'explored_masks', 'n_best', 'max_aligned'), (1, 10**4)),
    **dict.fromkeys(('num_chars', 'num_words'), (0, 2**24)),
    **dict.fromkeys(('min_count', 'max_strings'), _COUNT),
    **dict.fromkeys(('eval_examples', 'eval_rows', 'max_pairs'), _ROWS),
    # frozen encoders
    **dict.fromkeys(('train_sizes', 'selection_rows', 'occurrences', 'min_occurrences'), _COUNT),
    **dict.fromkeys(('draws', 'samples', 'resamples'), (1, 10**7)),
    'folds': (2, 10**6),
}
LARGEST = 3.4e38  # a number in fp32
# What the batches of the steps already taken depend on, beside the text, and what is made of them: a run that
# goes on keeps these settings.
BATCH_SETTINGS = (
    *('seed', 'batch_size', 'model.kind', 'model.pooling', 'model.classify_from'),
    *('loss.sop_on', 'loss.contrast_on'),
    *('data.char_length', 'data.word_length', 'data.mask_rate', 'data.max_anchors', 'data.max_anchor_length'),
    *('data.pack', 'data.max_texts', 'data.masking', 'data.similar_words'),
    *('data.explored_masks', 'data.explore_whole'),
    *('data.train', 'data.dev', 'data.folder', 'data.dataset', 'data.dev_fraction', 'data.test_fraction'),
    *('data.max_length', 'data.buckets', 'data.labels', 'data.text_columns', 'data.label_column'),
    *('data.language', 'data.stride', 'data.max_question_length', 'data.simplify', 'data.max_strings'),
    *('data.scheme', 'data.problem_type', 'data.label_separator'),
    *('data.mask_span', 'data.mask_shortest', 'data.latin_mask_span', 'data.latin_mask_shortest'),
    *('data.shuffle_positions', 'data.alignment', 'data.max_aligned', 'data.segmenter', 'data.hmm'),
)
# What runs did that were begun before there were these settings.
LEGACY_DEFAULTS = {
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
# Fine-tuning takes 0 for 'as the data or init_from say'.
REQUIRED_SIZES = (
    'total_steps',
    *(f'model.{key}' for key in ('hidden_size', 'num_heads', 'intermediate_size')),
)


def training_configs(config: ConfigDict) -> list[ConfigDict]:
    """The configs of the trainings that a job consists of."""
    if config.task == 'tables':
        return [config.pretrain, *config.finetune.values()]
    return [] if config.task in ('similarity', 'vectors', 'probe', 'words') else [config]


def check_job(config: ConfigDict) -> None:
    """`check` of every training that a job consists of, and of the numbers of the job itself."""
    for part in training_configs(config):
        check(part)
    check_numbers(flatten(config.to_dict()))


def check_numbers(values: Mapping[str, Any]) -> None:
    """Raises ValueError naming the first of these dotted keys whose number is not in its range, or, where a
    key has none, not finite. Entries of tuples are numbers, too; what is no number passes."""
    for key, value in values.items():
        low, high = RANGES.get(key.rpartition('.')[2], (-LARGEST, LARGEST))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not low <= number <= high:  # NaN is in no range
                allowed = 'a finite number' if high == LARGEST else f'from {low} to {high}'
                raise ValueError(f'{key}={number} must be {allowed}')


def check(config: ConfigDict) -> None:
    """Raises ValueError for a setting of a training that no data could make good."""
    values = flatten(config.to_dict())
    check_numbers(values)
    if config.task == 'pretrain':
        for key in REQUIRED_SIZES:
            if values[key] < 1:
                raise ValueError(f'{key}={values[key]} must be at least 1')
    choices = {
        'mode': ('train', 'evaluate', 'predict'),
        'optim.schedule': SCHEDULES,
        'data.scorer': ('cmrc', 'drcd'),
        'data.scheme': ('BIO', 'BIOES'),
        'data.problem_type': ('', *PROBLEM_TYPES),
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
    if config.dtype not in DTYPES:
        raise ValueError(f'dtype={config.dtype!r} must be one of {", ".join(DTYPES)}')


def flatten(tree: dict, prefix: str = '') -> dict:
    """{'a': {'b': 1}} → {'a.b': 1}."""
    out: dict = {}
    for key, value in tree.items():
        out |= flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
    return out
