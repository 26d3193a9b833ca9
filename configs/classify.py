"""Fine-tuning on classification of texts and of sentence pairs.

    python run.py --config=configs/classify.py:tnews --config.init_from=runs/pretrain

with one of chnsenticorp, thucnews, tnews, bq, lcqmc, afqmc, ocnli, xnli. Its official files lie in
data/<name>, or are named: --config.data.train=FILE --config.data.dev=FILE. Your own task needs no name and no
code, but a .tsv, .csv, .json or .jsonl file with a text, or two, and a label:

    python run.py --config=configs/classify.py --config.init_from=X --config.data.train=my.tsv --workdir=W

Several seeds, with their mean and standard deviation: --config.seeds=5, one after the other, or side by side
with --config.seeds_at_once=5. A fine-tuned model on other data:

    python run.py --config=configs/classify.py --workdir=W --config.mode=evaluate --config.data.test=FILE
    python run.py --config=configs/classify.py --workdir=W --config.mode=predict --config.data.test=FILE
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

# name: tokens, batch size, learning rate, epochs.
SETTINGS = {
    'chnsenticorp': (256, 64, 2e-5, 3),
    'thucnews': (512, 64, 2e-5, 3),
    'tnews': (128, 64, 2e-5, 3),
    'bq': (128, 64, 3e-5, 3),
    'lcqmc': (128, 64, 2e-5, 3),
    'afqmc': (128, 64, 2e-5, 3),
    'ocnli': (128, 64, 3e-5, 3),
    'xnli': (128, 64, 3e-5, 2),
}


def get_config(variant: str = '') -> ConfigDict:
    """The config of one data set, or of one's own; see above."""
    if variant and variant not in SETTINGS:
        raise ValueError(f'configs/classify.py has no variant {variant!r}; it has {", ".join(SETTINGS)}')
    config = common.finetune(variant, select='acc')
    config.task = 'classify'
    config.data.labels = ()  # in the order of the logits; empty: the data set's, or those found in train
    config.data.text_columns = ()  # names of the column(s) with the text(s); empty: found by the header
    config.data.label_column = ''  # likewise
    # Of files in several languages, or with {language} in their names: those that are read, as a,b; empty:
    # all. The second one is for test; where empty, as the first (configs/transfer.py).
    config.data.language = 'zh' if variant == 'xnli' else ''
    config.data.test_language = ''
    config.data.pairs = placeholder(bool)  # whether rows are pairs; found out
    if variant:
        config.data.max_length, config.batch_size, config.optim.learning_rate, epochs = SETTINGS[variant]
        config.num_epochs = float(epochs)
    else:
        config.data.folder = ''
    return config
