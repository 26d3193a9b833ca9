"""Mirror-BERT (Liu et al. 2021, arXiv 2104.08027): a BERT becomes a sentence or word encoder in a minute.

    python run.py --config=configs/mirror.py:sentence --config.init_from=X --config.data.train=texts.txt

for sentences, and for words

    python run.py --config=configs/mirror.py:word --config.init_from=X --config.data.train=words.txt

X is a workdir or a Hugging Face BERT folder; train has a text a line, or is a table with one or two columns
of texts. It needs no labels: every text is paired with itself. With --config.data.dev=pairs.tsv, lines of
text, text and human score, it is evaluated before and after (Spearman's correlation). On other pairs:

    python run.py --config=configs/mirror.py:word --workdir=W --config.mode=evaluate --config.data.test=FILE

Small encoders want a higher learning rate than BERT-base: see docs/results/mirror_cpu.
"""

from ml_collections import ConfigDict

from configs import common

# The paper's: tokens, characters masked, temperature, epochs.
SETTINGS = {'sentence': (50, 5, 0.04, 1.0), 'word': (25, 0, 0.2, 2.0)}


def get_config(variant: str = '') -> ConfigDict:
    """The config for 'sentence' or 'word'."""
    if variant not in SETTINGS:
        raise ValueError(f'configs/mirror.py has the variants {", ".join(SETTINGS)}, and no {variant!r}')
    config = common.sentences('mirror', evaluation='similarity')
    config.batch_size = 200
    config.log_every = 10
    config.data.max_strings = 10_000  # distinct texts of train, from its start
    length, config.data.mask_span, config.loss.temperature, config.num_epochs = SETTINGS[variant]
    config.data.max_length = length
    config.data.buckets = 3  # few: each is compiled, and there are 50 steps
    return config
