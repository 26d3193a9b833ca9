"""Settings that no data could make good, found without JAX: before the libraries are imported that take
seconds to."""

from ml_collections import ConfigDict

DTYPES = ('float32', 'bfloat16', 'float16')  # that products are computed in
SCHEDULES = ('linear', 'cosine', 'wsd', 'constant')  # of the learning rate, after the warm-up


def parts_of(config: ConfigDict) -> list[ConfigDict]:
    """The configs of the trainings that a job consists of."""
    if config.task == 'tables':
        return [config.pretrain, *config.finetune.values()]
    return [] if config.task in ('similarity', 'vectors', 'probe', 'words') else [config]


def check(config: ConfigDict) -> None:
    """Raises ValueError for a setting that no data could make good."""
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
        *((key, 1, None) for key in ('seeds', 'data.stride', 'data.max_question_length')),
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
        'optim.schedule': SCHEDULES,
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
    if config.dtype not in DTYPES:
        raise ValueError(f'dtype={config.dtype!r} must be one of {", ".join(DTYPES)}')


def flatten(tree: dict, prefix: str = '') -> dict:
    """{'a': {'b': 1}} → {'a.b': 1}."""
    out: dict = {}
    for key, value in tree.items():
        out |= flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
    return out
