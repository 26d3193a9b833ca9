"""How far words are from their characters: the paper's Figure 3.

    python run.py --config=configs/similarity.py --config.init_from=runs/pretrain --workdir=runs/similarity

measures the vectors of held-out words in the word encoder against the means of their characters' vectors in
the character encoder: cosine and Euclidean distance, words of two characters and all longer ones apart,
beside the characters of another word as a control; and says how many of the corpus's words have two
characters, as the paper does. Several pre-trained models side by side, each with a name:

    python run.py --config=configs/similarity.py --config.models=clower=runs/a,mm_bert_sop=runs/b
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults


def get_config() -> ConfigDict:
    """The only one."""
    data = 'corpus eval_examples max_anchors'
    config = defaults('task init_from models seed batch_size dtype', data=data)
    config.task = 'similarity'
    config.data.eval_examples = 1024
    return config
