"""Zero-shot transfer: a classifier is trained on one language and tested on others.

    python run.py --config=configs/transfer.py:xnli --config.init_from=X --config.data.folder=XNLI
    python run.py --config=configs/transfer.py:pawsx --config.init_from=X --config.data.folder=x-final

X is a multilingual encoder; what configs/mlctl.py made of it, and what it was before, are the two to compare.
It trains and chooses on --config.data.language, English, and `test` is accuracy in each of
--config.data.test_language, as zh,de. The folder of XNLI has multinli.train.en.tsv, xnli.dev.tsv and
xnli.test.tsv, whose column `language` says what a row is in; PAWS-X has a folder for each language,
{language}/train.tsv, dev_2k.tsv, test_2k.tsv. Rows in other languages are counted in the log, each by
itself. Batch size, rate, epochs and length are those of XTREME's scripts (Hu et al. 2020, arXiv 2003.11080).
"""

from ml_collections import ConfigDict

from configs import classify

VARIANTS = ('xnli', 'pawsx')


def get_config(variant: str = '') -> ConfigDict:
    """The config of 'xnli' or 'pawsx'."""
    if variant not in VARIANTS:
        raise ValueError(f'configs/transfer.py has the variants {", ".join(VARIANTS)}, and no {variant!r}')
    config = classify.get_config(variant if variant in classify.SETTINGS else '')
    config.data.dataset = variant
    config.data.folder = f'data/{variant}'
    config.data.language, config.data.test_language = 'en', 'zh'
    config.batch_size, config.num_epochs, config.data.max_length = 32, 5.0, 128
    config.optim.learning_rate = 2e-5
    return config
