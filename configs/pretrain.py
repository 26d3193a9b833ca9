r"""CLOWER pre-training (Chen et al. 2022, arXiv 2208.10844).

    python run.py --config=configs/pretrain.py

trains a tiny model on the text that comes with this project, in minutes on two CPU cores. On your own text:

    python run.py --config=configs/pretrain.py --config.data.text='my/*.txt' --workdir=runs/mine

The variants are for a corpus made once (`python -m input_pipeline.build_corpus`, see the README):

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

from configs import common

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
    config.microbatches = 1  # parts of a batch that are encoded one after another: memory of one part
    config.model = common.model('base')
    config.loss = ConfigDict(
        {
            # shared: a softmax over every row (the paper); branch: characters over the base rows only.
            'mlm_candidates': 'shared',
            'sop_weight': 1.0,  # λ of the paper
            'sop_on': 'both',  # which encoders predict the order: both, char, word or none
            'contrast_weight': 1.0,  # μ of the paper
            'contrast_on': 'both',  # token: words and their characters; sentence: [CLS]; both; none
            'temperature': 0.05,  # τ of the paper
            'same_word_negatives': True,  # the same word elsewhere in the batch is a negative (the paper)
            'contrast_scope': 'global',  # negatives from all devices; local: from each data shard
            'cmlm_vectors': 15,  # model.kind=cmlm: projections of the other sentence's vector; its paper's
        }
    )
    config.data = ConfigDict(
        {
            'corpus': '',  # a folder that build_corpus wrote
            'text': '',  # where corpus is empty: text files to build one from, or 'embedded'
            'base_vocab': '',  # for text: a BERT vocabulary to extend; empty: built from the text
            'num_chars': 0,  # for text: characters of base_vocab that are kept (the paper: 5466); 0: all rows
            'text_field': '',  # for text: the field, or a,b, that holds it in .json, .parquet; empty: found
            'num_words': 40014,  # for text: size of the word block; the paper's
            'min_count': 2,  # for text: what occurs less often is no word
            'segmenter': 'jieba',  # for text: jieba or rjieba
            'validation_fraction': 0.01,  # for text: share of the documents held out
            'char_length': 0,  # tokens with [CLS] and [SEP]; 0: the corpus's (the paper: 512)
            'word_length': 0,
            'mask_rate': 0.15,  # of each view's tokens; the paper's
            # words: whole words, [MASK] for most; ngrams: MacBERT's, a similar word for most.
            'masking': 'words',
            'similar_words': '',  # for ngrams: a file that input_pipeline.similar_words wrote
            'explored_masks': 1,  # disjoint masks of each text, rows of the same batch; for one encoder
            'explore_whole': False,  # whether they share the whole text; else each has mask_rate of it
            'max_anchors': 20,  # words per sequence that are contrasted; the paper's
            'max_anchor_length': 4,  # their characters, from 2; 0: any number; the paper's
            'eval_examples': 0,  # of the held-out set; 0: all
            # Several texts in a row: batch_size counts rows, char_length and word_length are a row's, 0 being
            # 4 times the corpus's and the words that go with it.
            'pack': False,
            'max_texts': 8,  # in a row, which holds about five on average
        }
    )
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
    """A medium model from random weights, for one GPU. Its speed and memory are not yet measured."""
    config.model = common.model('medium')
    config.dtype = 'bfloat16'
    config.data.pack = True
    config.total_steps, config.batch_size = 100_000, 16  # rows of about five texts
    config.optim.learning_rate, config.optim.warmup_steps = 2e-4, 4000
    config.data.eval_examples = 4096


def base(config: ConfigDict) -> None:
    """BERT-base twice, from a Hugging Face BERT, for one large GPU. Not yet measured there."""
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
    learning rate; the warm-up, the linear decay and the
    gradient clipping are not in it.
    """
    config.dtype = 'bfloat16'
    config.init_from = 'bert-base-chinese'
    config.total_steps, config.batch_size = 300_000, 960
    config.optim.learning_rate, config.optim.warmup_steps = 2e-5, 10_000
    config.checkpoint_every = 5000
    config.data.eval_examples = 4096
