"""Vectors of texts from pairs that mean the same: Sentence-BERT's in-batch negatives, supervised SimCSE.

    python run.py --config=configs/supervised_vectors.py --config.init_from=X --config.data.train=pairs.tsv

X is a workdir or a Hugging Face BERT folder. A row of train is a text and another that means the same, and
may have a third, a hard negative: something near that means another thing. All other texts of the batch are
negatives, too, but for those that a pair of the batch shares. Or train has labels: pairs labelled 1 are used;
or it is a file of natural language inference (OCNLI, CMNLI, XNLI), where what a premise entails is its
positive, and what contradicts it the hard negative:

    python run.py --config=configs/supervised_vectors.py:simcse --config.init_from=X
        --config.data.train=ocnli/train.50k.json --config.data.dev=sts-b-dev.txt

With --config.data.dev=pairs.tsv, lines of text, text and human score, it is evaluated before and after
(Spearman's correlation); several sets at once, --config.data.dev=a.tsv,b.tsv, with their mean; with
--config.data.evaluation=retrieval by finding each text's partner. On other pairs:

    python run.py --config=configs/supervised_vectors.py --workdir=W --config.mode=evaluate
        --config.data.test=FILE

Without a variant the settings are those of sentence-transformers' script for such files (MultipleNegatives-
RankingLoss): a mean over the tokens, an epoch. Variant:

    simcse    supervised SimCSE (Gao et al. 2021, arXiv 2104.08821) for BERT-base: [CLS], in training through
              the pooler; larger batches, three epochs, the best parameters by dev

A batch that a device has not the memory for: --config.microbatches=8; its negatives stay those of the batch.
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults
from configs import common

VARIANTS = {
    '': {
        'batch_size': 128, 'num_epochs': 1.0, 'model.pooling': 'mean', 'data.max_length': 75,
        'optim.learning_rate': 2e-5,
    },
    'simcse': {
        'batch_size': 512, 'num_epochs': 3.0, 'model.pooling': 'cls', 'model.projection': True,
        'data.max_length': 32, 'optim.learning_rate': 5e-5, 'optim.weight_decay': 0.0,
        'optim.warmup_fraction': 0.0, 'select': 'spearman', 'eval_every': 125,
    },
}  # fmt: skip


def get_config(variant: str = '') -> ConfigDict:
    """The config of a variant: none, or 'simcse'."""
    if variant not in VARIANTS:
        raise ValueError(f'configs/supervised_vectors.py has no variant {variant!r}; it has simcse')
    config = common.sentences('supervised_vectors', evaluation='similarity')
    config.update(defaults(model='projection', loss='symmetric'))
    config.loss.temperature = 0.05
    config.log_every = 10
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
