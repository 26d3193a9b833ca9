"""Fine-tuning on classification of texts and of sentence pairs.

    python run.py --config=configs/classify.py:tnews --config.init_from=runs/pretrain

with one of chnsenticorp, thucnews, tnews, bq, lcqmc, ocnli, xnli, which have the settings of the paper's
table 1, or afqmc, iflytek, cmnli, csl, wsc, which are not in the paper and have settings of our own. Its
official files lie in data/<name>, or are named: --config.data.train=FILE --config.data.dev=FILE. Your own
task needs no name and no code, but a .tsv, .csv, .json or .jsonl file with a text, or two, and a label; its
settings are the defaults of configs/common.py:

    python run.py --config=configs/classify.py --config.init_from=X --config.data.train=my.tsv --workdir=W

A text may have several labels: a list in .json, or joined by what --config.data.label_separator says; or a
score, a number with decimals (or --config.data.problem_type=regression). The first line of output says which
it is.

The paper's figures are means of five seeds: --config.seeds=5, with mean and standard deviation. A
fine-tuned model on other data:

    python run.py --config=configs/classify.py --workdir=W --config.mode=evaluate --config.data.test=FILE
    python run.py --config=configs/classify.py --workdir=W --config.mode=predict --config.data.test=FILE
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from clower_jax.utils.config_keys import defaults
from configs import common

# Name: tokens, batch size, learning rate, epochs. Table 1 of the paper.
TABLE_1 = {
    'chnsenticorp': (256, 32, 3e-5, 10),
    'thucnews': (512, 16, 3e-5, 10),
    'tnews': (128, 32, 3e-5, 10),
    'bq': (128, 64, 3e-5, 10),
    'lcqmc': (128, 64, 3e-5, 10),
    'ocnli': (128, 32, 3e-5, 10),
    'xnli': (128, 64, 3e-5, 10),
}
SETTINGS = TABLE_1 | {  # those of CLUE that are not in the paper; ours
    'afqmc': (128, 64, 2e-5, 3),
    'iflytek': (256, 32, 2e-5, 3),
    'cmnli': (128, 64, 2e-5, 3),
    'csl': (256, 32, 2e-5, 5),
    'wsc': (128, 16, 2e-5, 20),
}


def get_config(variant: str = '') -> ConfigDict:
    """The config of one data set, or of one's own; see above."""
    config = common.finetune_dataset('classify', variant, SETTINGS, select='acc', batch_size=64)
    config.task = 'classify'
    data = 'labels text_columns label_column language test_language problem_type label_separator'
    config.update(defaults(data=data, model='classify_from new_pooler', loss='r_drop'))
    if variant == 'xnli':
        config.data.language = 'zh'
    config.data.pairs = placeholder(bool)  # found out
    return config
