"""Fine-tuning on multiple choice: C3, questions about a text, and CHID, idioms for the blanks of a text.

    python run.py --config=configs/choose.py:c3 --config.init_from=runs/pretrain

with c3 or chid; official files lie in data/<name>, or are named, several as a,b: --config.data.train=a,b.
Your own questions are objects in .json or .jsonl with question, choices, answer and, if there is one,
context:

    python run.py --config=configs/choose.py --config.init_from=X --config.data.train=my.jsonl --workdir=W

A fine-tuned model on other questions:

    python run.py --config=configs/choose.py --workdir=W --config.mode=evaluate --config.data.test=FILE
    python run.py --config=configs/choose.py --workdir=W --config.mode=predict --config.data.test=FILE
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults
from configs import common

# Name: tokens, batch size (questions), learning rate, epochs. Neither is in the paper; ours.
SETTINGS = {'c3': (512, 8, 2e-5, 8), 'chid': (128, 8, 2e-5, 3)}


def get_config(variant: str = '') -> ConfigDict:
    """The config of one data set, or of one's own; see above."""
    config = common.finetune_dataset('choose', variant, SETTINGS, select='acc', batch_size=16)
    config.task = 'choose'
    config.update(defaults(loss='r_drop'))
    return config
