"""How far words are from their characters: the paper's Figure 3.

    python run.py --config=configs/similarity.py --config.init_from=runs/pretrain --workdir=runs/similarity

measures the vectors of held-out words in the word encoder against the means of their characters' vectors in
the character encoder: cosine and Euclidean distance, words of two characters and all longer ones apart,
beside the characters of another word as a control; and says how many of the corpus's words have two
characters, as the paper does. Several pre-trained models side by side, each with a name:

    python run.py --config=configs/similarity.py --config.models=clower=runs/a,mm_bert_sop=runs/b
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The only one."""
    return ConfigDict(
        {
            'task': 'similarity',
            'init_from': '',  # the workdir of a pre-training run
            'models': '',  # or of several: NAME=WORKDIR,NAME=WORKDIR
            'seed': 0,  # of which word is whose control
            'batch_size': 32,
            'dtype': 'float32',
            'data': {
                'corpus': '',  # a corpus with the vocabulary of the models; empty: each model's own
                'eval_examples': 1024,  # of its held-out set; 0: all
                'max_anchors': 20,  # words of a text, chosen at random
            },
        }
    )
