r"""CLOWER pre-training (Chen et al. 2022, arXiv 2208.10844).

    python run.py --config=configs/pretrain.py

trains a tiny model on the text that comes with this project, in minutes on two CPU cores. On your own text:

    python run.py --config=configs/pretrain.py --config.data.text='my/*.txt' --workdir=runs/mine

The variants are for a corpus made once (`python -m input_pipeline.build_corpus`):

    python run.py --config=configs/pretrain.py:mini  --config.data.corpus=DIR    a tiny model, from nothing
    python run.py --config=configs/pretrain.py:cpu   --config.data.corpus=DIR    a small model, from nothing
    python run.py --config=configs/pretrain.py:small --config.data.corpus=DIR    a medium one, for one GPU
    python run.py --config=configs/pretrain.py:base  --config.data.corpus=DIR    from a Chinese BERT-base
    python run.py --config=configs/pretrain.py:paper --config.data.corpus=DIR    with the paper's settings

The last two start from the Hugging Face folder bert-base-chinese/; --config.init_from=FOLDER takes another
one, --config.init_from='' random weights.

The tiny one learns fastest from short rows first, then from long ones: two corpora of the same text and
vocabulary, built with --char_length 32 --word_length 24 and with --char_length 128 --word_length 96:

    python run.py --config=configs/pretrain.py:mini --config.data.corpus=SHORT --workdir=runs/short
    python run.py --config=configs/pretrain.py:mini --config.data.corpus=LONG --config.init_from=runs/short \
        --config.total_steps=2000 --workdir=runs/mini

The paper's baselines and ablations train on the same text with the same settings, in any of these sizes:

    python run.py --config=configs/pretrain.py:cpu,mm_bert_sop --config.data.corpus=DIR

    bert_wwm, bert_wwm_sop   one encoder, over characters, with whole words masked; with sentence order
    mm_bert, mm_bert_sop     both encoders, no contrast; with sentence order
    no_tcl, no_scl           CLOWER without the contrast of words, of sentences
    no_contrast              CLOWER without either, which is mm_bert_sop
    macbert                  bert_wwm_sop with MacBERT's masks (Cui et al. 2020, arXiv 2004.13922): n-grams of
                             words, replaced by similar words: --config.data.similar_words=FILE, which
                             python -m input_pipeline.similar_words makes
    ambert                   one set of encoder weights for both views, an embedding layer for each (Zhang et
                             al. 2020, arXiv 2008.11869); classification reads both
    lichee                   one encoder over characters, each merged with the word that it is in (Guo et al.
                             2021, arXiv 2108.00801); it stays a workdir, for it is no BERT

Beside them there are two other ways to learn from masks:

    fully_explored           bert_wwm with each text 4 times in a batch, under disjoint masks (Zheng et al.
                             2020, arXiv 2010.06040): a step is on a quarter of the texts;
                             base needs --config.batch_size=8 or another multiple of 4
    fully_explored_whole     the same with masks that share the whole text: 6, each a sixth of it, the share
                             nearest to 15 %; all but paper need a --config.batch_size, a multiple of 6
    cmlm                     a sentence's masked tokens given the vector of the sentence before it (Yang et
                             al. 2020, arXiv 2012.14388); the sizes small and base need
                             --config.data.pack=False --config.data.char_length=0, too. What it trains is the
                             mean vector, which configs/vectors.py judges
"""

from typing import Any

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults
from configs import common

LOSS_KEYS = (
    'mlm_candidates sop_weight sop_on contrast_weight contrast_on temperature same_word_negatives '
    'contrast_scope cmlm_vectors'
)
DATA_KEYS = (
    'corpus text base_vocab num_chars text_field num_words min_count segmenter validation_fraction '
    'char_length word_length mask_rate masking similar_words explored_masks explore_whole max_anchors '
    'max_anchor_length eval_examples pack max_texts'
)
NO_CONTRAST = {'loss.contrast_on': 'none'}
ONE_ENCODER = {'model.kind': 'bert'} | NO_CONTRAST
# The baselines and ablations of the paper, and other systems: what differs from CLOWER.
SYSTEMS: dict[str, dict[str, Any]] = {
    'bert_wwm': ONE_ENCODER | {'loss.sop_on': 'none'},
    'bert_wwm_sop': ONE_ENCODER,
    'mm_bert': NO_CONTRAST | {'loss.sop_on': 'none'},
    'mm_bert_sop': NO_CONTRAST,
    'no_tcl': {'loss.contrast_on': 'sentence'},
    'no_scl': {'loss.contrast_on': 'token'},
    'no_contrast': NO_CONTRAST,
    'macbert': ONE_ENCODER | {'data.masking': 'ngrams'},
    'fully_explored': ONE_ENCODER | {'loss.sop_on': 'none', 'data.explored_masks': 4},
    'fully_explored_whole': ONE_ENCODER
    | {'loss.sop_on': 'none', 'data.explored_masks': 6, 'data.explore_whole': True},
    'ambert': NO_CONTRAST | {'model.kind': 'ambert'},
    'lichee': NO_CONTRAST | {'model.kind': 'lichee'},
    'cmlm': {'model.kind': 'cmlm', 'loss.sop_on': 'none', 'data.mask_rate': 0.3} | NO_CONTRAST,
}


def get_config(variant: str = '') -> ConfigDict:
    """The config of one variant, or of a size and a system, as in 'cpu,no_tcl'; see above."""
    sizes = {'': demo, 'mini': mini, 'cpu': cpu, 'small': small, 'base': base, 'paper': paper}
    names = variant.split(',') if variant else []
    unknown = [name for name in names if name not in (*sizes, *SYSTEMS)]
    if unknown:
        known = ', '.join(filter(None, (*sizes, *SYSTEMS)))
        raise ValueError(f'configs/pretrain.py has no variant {unknown[0]!r}; it has {known}')
    chosen = [name for name in names if name in sizes]
    if len(chosen) > 1 or len(names) - len(chosen) > 1:
        raise ValueError(f'{variant!r}: give one size and one system at most')
    config = common.run()
    config.task = 'pretrain'
    config.model = common.model('base')
    config.update(defaults(loss=LOSS_KEYS, data=DATA_KEYS))
    sizes[chosen[0] if chosen else ''](config)
    for name in names:
        config.update_from_flattened_dict(SYSTEMS.get(name, {}))
    return config


def demo(config: ConfigDict) -> None:
    """The embedded corpus: a few minutes of two CPU cores."""
    config.model = common.model('tiny')
    config.model.dropout = config.model.attention_dropout = 0.0
    config.total_steps, config.batch_size = 400, 32
    config.log_every, config.eval_every, config.checkpoint_every = 20, 100, 200
    config.optim.learning_rate, config.optim.warmup_steps = 1e-3, 60
    config.data.text = 'embedded'
    config.data.num_words = 4000
    config.data.min_count = 1  # in so short a text half of the words occur once
    config.data.validation_fraction = 0.1
    config.data.char_length, config.data.word_length = 128, 96


def mini(config: ConfigDict) -> None:
    """A tiny model from random weights: half an hour of two CPU cores leaves the first plateau far behind."""
    config.model = common.model('tiny')
    config.loss.mlm_candidates = 'branch'
    config.model.dropout = config.model.attention_dropout = 0.0
    config.dtype = 'bfloat16'
    config.total_steps, config.batch_size = 10_000, 64
    config.log_every, config.eval_every, config.checkpoint_every = 50, 1000, 500
    config.optim.learning_rate, config.optim.warmup_steps, config.optim.schedule = 1e-3, 500, 'wsd'
    config.data.eval_examples = 1024


def cpu(config: ConfigDict) -> None:
    """A small model from random weights: a few hours of a few CPU cores."""
    config.model = common.model('small')
    config.loss.mlm_candidates = 'branch'
    config.model.dropout = config.model.attention_dropout = 0.0  # less than an epoch: nothing to overfit
    config.total_steps, config.batch_size = 10_000, 32
    config.log_every, config.eval_every, config.checkpoint_every = 20, 500, 500
    config.optim.learning_rate, config.optim.warmup_steps = 1e-3, 500
    config.data.eval_examples = 512


def small(config: ConfigDict) -> None:
    """A medium model from random weights, for one GPU. Speed of packed rows is not measured yet."""
    config.model = common.model('medium')
    config.dtype = 'bfloat16'
    config.data.pack = True
    config.total_steps, config.batch_size = 100_000, 16  # rows of about five texts
    config.optim.learning_rate, config.optim.warmup_steps = 2e-4, 4000
    config.data.eval_examples = 4096


def base(config: ConfigDict) -> None:
    """BERT-base twice, from a Hugging Face BERT, for one large GPU.

    Speed of packed rows is not measured yet; docs/performance.md has that of rows of one text.
    """
    config.dtype = 'bfloat16'
    config.init_from = 'bert-base-chinese'
    config.data.pack = True
    config.data.char_length = (
        1536  # three texts of 512: longer rows fill no better, and attend to more in vain
    )
    config.total_steps, config.batch_size = 50_000, 10  # rows of about four texts
    config.optim.learning_rate, config.optim.warmup_steps = 2e-5, 2000
    config.data.eval_examples = 4096


def paper(config: ConfigDict) -> None:
    """The paper: BERT-base twice from Google's Chinese BERT, batch 960, 300k steps, 512 tokens.

    One GPU holds such a batch with --config.microbatches=16. The paper gives Adam with weight decay and the
    learning rate; the warm-up, the linear decay and the gradient clipping are not in it.
    """
    config.dtype = 'bfloat16'
    config.init_from = 'bert-base-chinese'
    config.total_steps, config.batch_size = 300_000, 960
    config.optim.learning_rate, config.optim.warmup_steps = 2e-5, 10_000
    config.checkpoint_every = 5000
    config.data.eval_examples = 4096
