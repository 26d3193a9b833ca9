"""Model sizes and keys that the jobs share. What a key is for: clower_jax/utils/config_keys.py, or --help."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults

ENCODER_KEYS = (
    'hidden_size num_layers num_heads intermediate_size dropout attention_dropout drophead kind '
    'initializer_range attention remat max_positions vocab_size base_vocab_size'
)
SIZES = {
    # name: hidden size, layers, attention heads, width of the feed-forward layer
    'tiny': (128, 2, 2, 512),
    'small': (256, 4, 4, 1024),
    'medium': (512, 6, 8, 2048),
    'base': (768, 12, 12, 3072),  # BERT-base, the paper's
}


def model(size: str) -> ConfigDict:
    """Each of the two encoders has this shape."""
    config = defaults(model=ENCODER_KEYS).model
    config.hidden_size, config.num_layers, config.num_heads, config.intermediate_size = SIZES[size]
    config.initializer_range = round(0.02 * (768 / config.hidden_size) ** 0.5, 3)
    return config


def finetune(dataset: str, select: str) -> ConfigDict:
    """What every fine-tuning job has. The sizes of the encoder come with `init_from`."""
    config = run()
    config.update(defaults('mode seeds num_epochs', optim='warmup_fraction'))
    config.batch_size = 64
    config.total_steps = config.eval_every = config.checkpoint_every = 0  # epochs, and at the end of each
    config.keep_checkpoints = 1
    config.log_every = 50
    config.select = select
    config.optim.learning_rate = 2e-5
    config.optim.warmup_steps = 0
    config.model = model('base')
    config.model.kind = ''
    for name in ('hidden_size', 'num_layers', 'num_heads', 'intermediate_size', 'max_positions'):
        config.model[name] = 0  # as init_from has it; with random weights, BERT-base's
    files = 'dataset folder train dev test dev_fraction vocab'
    config.data = defaults(data=f'{files} max_length buckets segmenter hmm').data
    config.data.dataset, config.data.folder = dataset, f'data/{dataset}'
    config.data.segmenter = ''
    return config


def finetune_dataset(
    job: str, variant: str, settings: Mapping[str, tuple[int, int, float, int]], select: str, batch_size: int
) -> ConfigDict:
    """`finetune` on a data set of `settings`, {name: (tokens, batch size, learning rate, epochs)}; with no
    variant on files of one's own, in batches of `batch_size`.

    Raises ValueError for a variant that `settings` has not.
    """
    if variant and variant not in settings:
        raise ValueError(f'configs/{job}.py has no variant {variant!r}; it has {", ".join(settings)}')
    config = finetune(variant, select)
    if variant:
        config.data.max_length, config.batch_size, config.optim.learning_rate, epochs = settings[variant]
        config.num_epochs = float(epochs)
    else:
        config.data.folder, config.batch_size = '', batch_size
    return config


def sentences(task: str, evaluation: str) -> ConfigDict:
    """What every job has that makes vectors of texts: judged by them, before and after, on scored pairs
    ('similarity') or by finding each text's partner ('retrieval')."""
    config = finetune('', select='')
    config.task = task
    config.eval_first = True
    data = 'evaluation test_fraction text_columns label_column'
    config.update(defaults(data=data, model='pooling', loss='temperature'))
    config.data.evaluation = evaluation
    config.data.folder = ''
    config.data.dev_fraction = 0.0
    return config


def run() -> ConfigDict:
    """What every training job has."""
    return defaults(
        'seed total_steps batch_size dtype init_from log_every log_to eval_every eval_first checkpoint_every '
        'keep_checkpoints select patience max_bad_steps microbatches',
        optim='learning_rate warmup_steps schedule final_fraction weight_decay clip_norm initial_loss_scale '
        'layer_decay ema_decay adversarial adversarial_radius',
        mesh='data fsdp tensor reduce_dtype',
    )
