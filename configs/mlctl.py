"""ML-CTL (arXiv 2202.13083): translations get like vectors, as sentences and word by word.

    python run.py --config=configs/mlctl.py --config.init_from=X --config.data.train=pairs.tsv

X is a workdir or the folder of a multilingual or any other BERT; a line of train is a text, a tab and its
translation, in any languages. A share of them is kept to evaluate on, before and after: how often the nearest
of all translations is the right one. On other pairs:

    python run.py --config=configs/mlctl.py --workdir=W --config.mode=evaluate --config.data.test=FILE

What a classifier of one language is worth on another: configs/transfer.py, from X and from W.

Which words translate each other is found out by the model itself, or comes from a word aligner:

    python -m input_pipeline.word_groups --input pairs.tsv --output words.txt
    fast_align -i words.txt -d -o -v > pairs.align     # or another; a line '0-0 1-2' for every pair

and --config.data.alignment=pairs.align. The paper's settings were not at hand: these are ours.
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults
from configs import common


def get_config() -> ConfigDict:
    """The config; there are no variants."""
    config = common.sentences('mlctl', evaluation='retrieval')
    loss = 'contrast word_weight within_words align_threshold'
    config.update(defaults(data='alignment max_aligned', loss=loss))
    config.batch_size = 64
    config.num_epochs = 1.0
    config.data.max_length = 64
    config.data.dev_fraction = 0.05
    config.data.segmenter = 'jieba'  # of Chinese text
    config.loss.temperature = 0.1
    return config
