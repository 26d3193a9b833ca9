"""Fine-tuning on token classification: named entities, and whatever else are spans of a text.

    python run.py --config=configs/tag.py:cluener --config.init_from=runs/pretrain

with one of cluener, msra; official files lie in data/<name>, or are named: --config.data.train=FILE
--config.data.dev=FILE. Your own task needs no name: a file with a token and its tag on each line (BIO,
BIOES), or .jsonl with a text and its spans (`input_pipeline/datasets/tagged.py` lists the forms):

    python run.py --config=configs/tag.py --config.init_from=X --config.data.train=my.bio --workdir=W

A fine-tuned model on other data; predictions.json is in CLUENER's format:

    python run.py --config=configs/tag.py --workdir=W --config.mode=evaluate --config.data.test=FILE
    python run.py --config=configs/tag.py --workdir=W --config.mode=predict --config.data.test=FILE
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults
from configs import common

# Name: tokens, batch size, learning rate, epochs. Neither is in the paper; ours.
SETTINGS = {'cluener': (128, 32, 3e-5, 5), 'msra': (256, 32, 3e-5, 5)}


def get_config(variant: str = '') -> ConfigDict:
    """The config of one data set, or of one's own; see above."""
    config = common.finetune_dataset('tag', variant, SETTINGS, select='entity_f1', batch_size=32)
    config.task = 'tag'
    config.update(defaults(data='labels scheme stride', loss='r_drop'))
    config.data.stride = 64
    return config
