"""Auto-MLM (arXiv 2203.16187): a text's vector learns to hold what its masked words were.

    python run.py --config=configs/auto_mlm.py --config.init_from=X --config.data.train=texts.txt

X is a workdir or a Hugging Face BERT folder; train has a text a line, or is a table with one or two columns
of texts, whose labels are not looked at. With --config.data.dev=pairs.tsv it is evaluated before and after:
how near a text's paraphrase is, among those of all other texts (pairs labelled 1; all, if there is no label).
Half of these pairs, called validation, are there to choose by, a learning rate for one; the other half, test,
is what the choice is worth. (--config.data.test=FILE: other pairs.) On other pairs:

    python run.py --config=configs/auto_mlm.py --workdir=W --config.mode=evaluate --config.data.test=FILE

The paper's settings were not at hand: these are ours.
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults
from configs import common


def get_config() -> ConfigDict:
    """The config; there are no variants."""
    config = common.sentences('auto_mlm', evaluation='retrieval')
    config.update(defaults(data='mask_rate', loss='mlm_weight'))
    config.batch_size = 64
    config.num_epochs = 1.0
    config.data.max_length = 64
    config.data.test_fraction = 0.5
    return config
