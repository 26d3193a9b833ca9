"""What the vectors are worth that an encoder gives, as it is: nothing is trained.

    python run.py --config=configs/vectors.py:similarity --config.init_from=X --config.data.test=pairs.tsv

X is whatever `clower_jax.Encoder` takes: a workdir, such as that of configs/pretrain.py:cmlm, whose mean
vector CMLM trains, or a Hugging Face folder. Lines of text, text and human score: Spearman's correlation of
cosines and scores. And with

    python run.py --config=configs/vectors.py:retrieval --config.init_from=X --config.data.test=pairs.tsv

how often a text's partner (of pairs labelled 1; of all, if there is no label) is the nearest among those of
all texts. Several sets at once, and their mean: --config.data.test=a.tsv,b.tsv.
"""

from ml_collections import ConfigDict

VARIANTS = ('similarity', 'retrieval')


def get_config(variant: str = '') -> ConfigDict:
    """The config for 'similarity' or 'retrieval'."""
    if variant not in VARIANTS:
        raise ValueError(f'configs/vectors.py has the variants {", ".join(VARIANTS)}, and no {variant!r}')
    return ConfigDict(
        {
            'task': 'vectors',
            'mode': 'evaluate',
            'init_from': '',  # the encoder
            'dtype': 'float32',  # of the products: float32, bfloat16 or float16
            'model': {'pooling': ''},  # mean or cls; empty: what the encoder was trained with, else mean
            'data': {
                'evaluation': variant,
                'test': '',  # pairs, or several files of them
                'max_length': 128,  # tokens of a text, special ones included
                'text_columns': (),  # names of the two columns with the texts; empty: found by the header
                'label_column': '',  # of scores, or of what pairs are (1: they mean the same); likewise
                **dict.fromkeys(('dataset', 'folder', 'train', 'dev'), ''),
            },
        }
    )
