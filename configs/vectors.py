"""What the vectors are worth that an encoder gives, as it is: nothing is trained.

    python run.py --config=configs/vectors.py:similarity --config.init_from=X --config.data.test=pairs.tsv

X is whatever `clower_jax.Encoder` takes: a workdir, such as that of configs/pretrain.py:cmlm, whose mean
vector CMLM trains, or a Hugging Face folder. Lines of text, text and human score: Spearman's correlation of
cosines and scores. And with

    python run.py --config=configs/vectors.py:retrieval --config.init_from=X --config.data.test=pairs.tsv

how often a text's partner (of pairs labelled 1; of all, if there is no label) is the nearest among those of
all texts. Several sets at once, and their mean: --config.data.test=a.tsv,b.tsv. Texts are read as long as
X says, or --config.data.max_length.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from clower_jax.utils.config_keys import defaults

VARIANTS = ('similarity', 'retrieval')


def get_config(variant: str = '') -> ConfigDict:
    """The config for 'similarity' or 'retrieval'."""
    if variant not in VARIANTS:
        raise ValueError(f'configs/vectors.py has the variants {", ".join(VARIANTS)}, and no {variant!r}')
    data = 'evaluation test max_length text_columns label_column dataset folder train dev'
    config = defaults('task mode init_from dtype', data=data, model='pooling')
    config.task, config.mode = 'vectors', 'evaluate'
    config.model.pooling = ''
    config.data.max_length = placeholder(int)  # as the encoder says
    config.data.evaluation = variant
    return config
