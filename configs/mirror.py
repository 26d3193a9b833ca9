"""Mirror-BERT (Liu et al. 2021, arXiv 2104.08027): a BERT becomes a sentence or word encoder in a minute.

    python run.py --config=configs/mirror.py:sentence --config.init_from=X --config.data.train=texts.txt

for sentences, and for words

    python run.py --config=configs/mirror.py:word --config.init_from=X --config.data.train=words.txt

X is a workdir or a Hugging Face BERT folder; train has a text a line, or is a table with one or two columns
of texts. It needs no labels: every text is paired with itself. With --config.data.dev=pairs.tsv, lines of
text, text and human score, it is evaluated before and after (Spearman's correlation); several sets at once,
--config.data.dev=a.tsv,b.tsv, with their mean. On other pairs:

    python run.py --config=configs/mirror.py:word --workdir=W --config.mode=evaluate --config.data.test=FILE

The settings are those of the authors' scripts, but for what is masked in Chinese. `:sentence,drophead` and
`:word,drophead` leave out whole attention heads instead of elements. Two relatives to compare with, which
learn from texts alone, too; with --config.data.dev the best parameters are kept, as their authors do:

    simcse    unsupervised SimCSE (Gao et al. 2021, arXiv 2104.08821): dropout alone tells the sides apart
    consert   ConSERT (Yan et al. 2021, arXiv 2105.11741): features are cut off one side, the positions of the
              other are shuffled; its rate, 5e-7, is one for ten epochs of 50,000 texts

Small encoders want a higher learning rate than BERT-base: see docs/results/archive/mirror_cpu.
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults
from configs import common

# The authors': tokens, temperature, epochs, pooling, and whether a span is masked.
SETTINGS = {'sentence': (50, 0.04, 1.0, 'mean', True), 'word': (25, 0.2, 2.0, 'cls', False)}
DROPHEAD = {'model.dropout': 0.0, 'model.attention_dropout': 0.0, 'model.drophead': 0.2}


# What is otherwise in the relatives, from the scripts of their authors (SimCSE's for BERT-base, ConSERT's for
# Chinese), which decay linearly and clip.
RELATIVES = {
    'simcse': {
        'batch_size': 64, 'num_epochs': 1.0, 'loss.temperature': 0.05, 'loss.within': False,
        'model.pooling': 'cls', 'model.projection': True, 'data.max_length': 32,
        'data.max_strings': 1_000_000, 'optim.learning_rate': 3e-5, 'optim.weight_decay': 0.0,
    },
    'consert': {
        'batch_size': 96, 'num_epochs': 10.0, 'loss.temperature': 0.1, 'model.pooling': 'mean',
        'model.feature_cutoff': 0.2, 'data.shuffle_positions': True, 'data.max_length': 64,
        'data.max_strings': 50_000, 'optim.learning_rate': 5e-7, 'optim.warmup_fraction': 0.1,
    },
}  # fmt: skip


def get_config(variant: str = '') -> ConfigDict:
    """The config of a variant, as in 'sentence' or 'word,drophead'; see above."""
    name, *more = variant.split(',')
    if not (name in SETTINGS and more in ([], ['drophead']) or variant in RELATIVES):
        known = ', '.join([*(f'{name}, {name},drophead' for name in SETTINGS), *RELATIVES])
        raise ValueError(f'configs/mirror.py has the variants {known}, and no {variant!r}')
    length, temperature, epochs, pooling, masked = SETTINGS.get(name, SETTINGS['word'])
    config = common.sentences('mirror', evaluation='similarity')
    masks = 'mask_span mask_shortest latin_mask_span latin_mask_shortest'
    data = f'max_strings shuffle_positions {masks}'
    config.update(defaults(data=data, model='projection feature_cutoff', loss='within'))
    config.batch_size = 200
    config.log_every = 10
    config.num_epochs = epochs
    config.loss.temperature = temperature
    config.model.pooling = pooling
    config.optim.warmup_fraction = 0.0
    config.data.max_length = length
    config.data.buckets = 3  # few: each is compiled, and there are 50 steps
    if masked:
        # Of a text with more Latin letters than Chinese characters, the authors'; of others those of
        # docs/results/archive/mirror_cpu.
        config.data.mask_span, config.data.mask_shortest = 5, 10
        config.data.latin_mask_span, config.data.latin_mask_shortest = 5, 30
    if name in RELATIVES:
        config.select, config.eval_every = 'spearman', 125
        config.update_from_flattened_dict(RELATIVES[name])
    else:
        config.optim.schedule, config.optim.clip_norm = 'constant', 0.0
    if more:
        config.update_from_flattened_dict(DROPHEAD)
    return config
