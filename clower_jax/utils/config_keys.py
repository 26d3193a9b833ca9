"""Every key of a config, declared once: its default, what it is for, its range, its part in the batches.

The jobs in configs/ pick their keys by `defaults` and set other values where theirs differ. It needs no
JAX: the command line is read before the libraries are imported that take seconds to.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from clower_jax.utils.folder_files import Entry
from input_pipeline.utils.problem_types import PROBLEM_TYPES

LARGEST = 3.4e38  # a number in fp32


@dataclasses.dataclass(frozen=True)
class Key:
    """One key.

    default: where a job says nothing else. about: what it is for, in a line or two for --help.
    low, high: from … to, of a number; upper bounds of sizes catch slips and are far above what machines hold.
    choices: of a training, where only these values will do.
    batches: whether the batches of a step depend on it, or what is made of them: a run that goes on keeps it.
    card: whether a model card lists it.
    before: task → its value in runs that were begun before there was this key, where they need one.
    """

    default: Any
    about: str = ''
    low: float = -LARGEST
    high: float = LARGEST
    choices: tuple[str, ...] = ()
    batches: bool = False
    card: bool = False
    before: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def entry(self, at_least: float | None = None) -> Entry:
        """What a JSON file from anywhere may have for this key: of its default's type, in its range, whose
        lower end may be raised."""
        return Entry((type(self.default),), self.low if at_least is None else at_least, self.high)


DTYPES = ('float32', 'bfloat16', 'float16')
# What many keys have in common.
_Part = dict[str, Any]
COUNT: _Part = {'low': 1, 'high': 10**9}
STEPS: _Part = {'low': 0, 'high': 10**9}
LENGTH: _Part = {'low': 0, 'high': 2**20}
ROWS: _Part = {'low': 0, 'high': 10**9}
ROW_LIMIT: _Part = {'low': 1, 'high': 2**20}
WEIGHT: _Part = {'low': 0.0, 'high': 1e6}
RATE: _Part = {'low': 0.0, 'high': 0.99}
FEW: _Part = {'low': 1, 'high': 10**4}
DRAWS: _Part = {'low': 1, 'high': 10**7}
BATCHES: _Part = {'batches': True}
CARD: _Part = {'card': True}

TASKS = ('pretrain', 'classify', 'span', 'mirror', 'mlctl', 'auto_mlm')  # of runs before there were others

_KEYS = {
    # What is done.
    'task': Key('', 'the job, or the fine-tuning task'),
    'mode': Key(
        'train', 'train; or evaluate, predict, with a fine-tuned --workdir',
        choices=('train', 'evaluate', 'predict'),
    ),
    'seed': Key(
        0, 'of everything that is drawn: weights, order, masks, dropout', 0, 2**32 - 1, **BATCHES, **CARD,
    ),
    'seeds': Key(1, 'runs, with the seeds seed, seed + 1, …', 1, 10**4),
    'total_steps': Key(1000, 'steps to train; of fine-tuning 0: num_epochs', **STEPS, **CARD),
    'num_epochs': Key(3.0, 'passes over the training data, where total_steps is 0', 0.0, 1e6),
    'batch_size': Key(32, 'sequences of a step, over all devices', 1, 2**20, **BATCHES, **CARD),
    'microbatches': Key(
        1, 'parts of a batch that are encoded one after another: memory of one part', 1, 2**20,
    ),
    'dtype': Key(
        'float32', 'of the products: float32, bfloat16 or float16; parameters are fp32', choices=DTYPES,
        **CARD,
    ),
    'init_from': Key('', 'a workdir or a Hugging Face BERT folder; empty: random weights'),
    # When something is logged, measured, saved.
    'log_every': Key(100, 'steps between lines of the log', **COUNT),
    'log_to': Key(
        'tensorboard', 'who gets the metrics beside metrics.jsonl: tensorboard, wandb, mlflow, as a,b',
    ),
    'eval_every': Key(
        1000, 'steps between evaluations; 0: at the end (of fine-tuning: of every epoch)', **STEPS,
    ),
    'eval_first': Key(False, 'evaluate also before the first step'),
    'checkpoint_every': Key(
        1000, 'steps between checkpoints; 0: at the end (of fine-tuning: of every epoch)', **STEPS,
    ),
    'keep_checkpoints': Key(2, 'the newest that are kept', 0, 10**6),
    'select': Key('', 'a held-out metric: the parameters at its best are kept in best/; empty: none'),
    'patience': Key(
        0, 'evaluations without a better one after which the run ends; 0: it never does', **STEPS,
    ),
    'max_bad_steps': Key(
        50, 'in a row, with a gradient or an update that is not finite; then it stops', **COUNT,
    ),
    # Devices.
    'mesh.data': Key(-1, 'devices that share a batch; -1: the rest', -1, 2**20),
    'mesh.fsdp': Key(1, 'devices that share a batch and the parameters; -1: the rest', -1, 2**20),
    'mesh.tensor': Key(1, 'devices that share each product; -1: the rest', -1, 2**20),
    'mesh.reduce_dtype': Key(
        'float32', 'what gradients are added up in over the devices of data: float32 or bfloat16',
        choices=('float32', 'bfloat16'),
    ),
    # Each encoder. 0 or empty: as the corpus, or init_from, has it.
    'model.kind': Key(
        'clower',
        'clower: two encoders over one table; bert: the character encoder alone; ambert, lichee, cmlm; '
        'word: to fine-tune the word encoder of a CLOWER; empty: as init_from has it', **BATCHES, **CARD,
        before={'pretrain': 'clower'},
    ),
    'model.hidden_size': Key(0, 'width of the hidden states', 0, 2**16, **CARD),
    'model.num_layers': Key(0, 'Transformer layers', 0, 1024, **CARD),
    'model.num_heads': Key(0, 'attention heads', 0, 2**12, **CARD),
    'model.intermediate_size': Key(0, 'width of the feed-forward layers', **LENGTH, **CARD),
    'model.max_positions': Key(512, "rows of the position table; BERT's", **LENGTH),
    'model.vocab_size': Key(0, '0: from the corpus; base block and word block together', 0, 2**24),
    'model.base_vocab_size': Key(0, '0: from the corpus; rows of the base block', 0, 2**24),
    'model.dropout': Key(0.1, "of hidden states; BERT's", **RATE, **CARD),
    'model.attention_dropout': Key(0.1, "of attention weights; BERT's", **RATE),
    'model.drophead': Key(0.0, 'probability of each attention head to be left out', **RATE, **CARD),
    'model.initializer_range': Key(
        0.02,
        "standard deviation of random weights: BERT's 0.02 at its 768 units, wider in narrower models, so "
        'that attention starts as sharp as there', 0.0, 100.0,
    ),
    'model.attention': Key(
        'auto',
        "'fused' on NVIDIA GPUs in 16 bits, where no weights are kept in memory; elsewhere 'own'; or "
        "'cudnn', fused without attention_dropout",
    ),
    'model.remat': Key(
        'none', "activations kept: none recomputed; 'qkv', 'full': a tenth, a third more FLOPs",
    ),
    'model.classify_from': Key(
        'pooler',
        'what a class is told from: pooler, as in BERT; cls, the vector of [CLS] itself, as the paper has '
        'it (section 3.3); or mean, over all tokens; Hugging Face classifiers compute neither of the last '
        'two', choices=('cls', 'pooler', 'mean'), **BATCHES, before={'classify': 'pooler'},
    ),
    'model.new_pooler': Key(
        False, 'draw the pooler anew, though init_from has one that pre-training trained',
        before={'classify': False},
    ),
    'model.pooling': Key(
        'mean', "a text's vector: mean, over its tokens, or cls; to judge vectors also empty: as in training",
        choices=('mean', 'cls'), **BATCHES, **CARD,
    ),
    'model.projection': Key(False, "whether a vector goes through BERT's pooler in training", **CARD),
    'model.feature_cutoff': Key(
        0.0, "probability of each feature of the first side's embeddings to be 0", **RATE, **CARD,
    ),
    # The optimiser, AdamW.
    'optim.learning_rate': Key(1e-4, 'its peak', 0.0, 1000.0, **CARD),
    'optim.warmup_steps': Key(
        100, 'linear up to the peak; of fine-tuning 0: warmup_fraction', **STEPS, **CARD,
    ),
    'optim.warmup_fraction': Key(0.1, 'of all steps, where warmup_steps is 0', **RATE),
    'optim.schedule': Key(
        'linear',
        'from the peak down to final_fraction of it at total_steps: linear, cosine, or wsd, which stays '
        'at the peak and falls over the last fifth of the steps; constant stays',
        choices=('linear', 'cosine', 'wsd', 'constant'), **CARD,
    ),
    'optim.final_fraction': Key(0.0, 'of the peak, at the last step', 0.0, 1.0),
    'optim.weight_decay': Key(0.01, 'not on biases and LayerNorm', 0.0, 1000.0, **CARD),
    'optim.clip_norm': Key(1.0, 'of the whole gradient; 0: none', 0.0, 1e9, **CARD),
    'optim.initial_loss_scale': Key(
        2.0**15,
        'of float16: what the loss is multiplied by at first, 2^24 at most; it halves where a gradient '
        'overflows and doubles after 2000 steps in which none did', 1.0, 2.0**24,
    ),
    'optim.layer_decay': Key(
        1.0, 'what the rate is multiplied by at every layer down from the heads; 1: nothing', 1e-6, 1.0,
        **CARD,
    ),
    'optim.ema_decay': Key(
        0.0, 'of a moving average of the weights, which is then evaluated and exported; 0: none', 0.0,
        0.999999, **BATCHES, **CARD, before=dict.fromkeys(TASKS, 0.0),
    ),
    'optim.adversarial': Key(
        '', "or 'fgm': every step is taken on the token embeddings as they are and at their worst nearby",
        choices=('', 'fgm'), **CARD,
    ),
    'optim.adversarial_radius': Key(1.0, "of 'fgm': how far they are moved", 1e-9, 1e6, **CARD),
    # The losses.
    'loss.mlm_candidates': Key(
        'shared', 'shared: a softmax over every row (the paper); branch: characters over the base rows only',
        **CARD,
    ),
    'loss.sop_weight': Key(1.0, 'λ of the paper', **WEIGHT, **CARD),
    'loss.sop_on': Key(
        'both', 'which encoders predict the order: both, char, word or none', **BATCHES, **CARD,
    ),
    'loss.contrast_weight': Key(1.0, 'μ of the paper', **WEIGHT, **CARD),
    'loss.contrast_on': Key(
        'both', 'token: words and their characters; sentence: [CLS]; both; none', **BATCHES, **CARD,
        before={'pretrain': 'both'},
    ),
    'loss.temperature': Key(0.05, 'τ of the contrast', 1e-4, 1e4, **CARD),
    'loss.same_word_negatives': Key(
        True, 'the same word elsewhere in the batch is a negative (the paper)', **CARD,
    ),
    'loss.contrast_scope': Key('global', 'negatives from all devices; local: from each data shard', **CARD),
    'loss.cmlm_vectors': Key(
        15, "of model.kind=cmlm: projections of the other sentence's vector; its paper's", **FEW, **CARD,
    ),
    'loss.symmetric': Key(
        False, 'of pairs with in-batch negatives: whether a positive also looks for its text', **CARD,
    ),
    'loss.within': Key(True, 'whether the other texts of the same side are negatives, too'),
    'loss.within_words': Key(False, 'whether the words of the same language are negatives, too'),
    'loss.contrast': Key('cz_nce', 'or info_nce'),
    'loss.r_drop': Key(
        0.0, 'weight of R-Drop: a batch is passed twice, and what it predicts is to be the same; 0: one pass',
        **WEIGHT, **CARD,
    ),
    'loss.word_weight': Key(1.0, 'of the contrast of words; that of sentences has 1', **WEIGHT),
    'loss.mlm_weight': Key(1.0, 'of the masked tokens; the contrast has 1', **WEIGHT),
    'loss.align_threshold': Key(-1.0, 'the least cosine of words that the model aligns; -1: any', -1.0, 1.0),
    # The corpus of pre-training.
    'data.corpus': Key('', 'a folder that build_corpus wrote'),
    'data.text': Key('', "where corpus is empty: text files to build one from, or 'embedded'"),
    'data.base_vocab': Key('', 'for text: a BERT vocabulary to extend; empty: built from the text'),
    'data.num_chars': Key(
        0, 'for text: characters of base_vocab that are kept (the paper: 5466); 0: all rows', 0, 2**24,
        before={'pretrain': 0},
    ),
    'data.text_field': Key('', 'for text: the field, or a,b, that holds it in .json, .parquet; empty: found'),
    'data.num_words': Key(40014, "for text: size of the word block; the paper's", 0, 2**24),
    'data.min_count': Key(2, 'for text: what occurs less often is no word', **COUNT),
    'data.validation_fraction': Key(0.01, 'for text: share of the documents held out', **RATE),
    'data.char_length': Key(
        0, "tokens with [CLS] and [SEP]; 0: the corpus's (the paper: 512)", **LENGTH, **BATCHES, **CARD,
    ),
    'data.word_length': Key(0, "words with [CLS] and [SEP]; 0: the corpus's", **LENGTH, **BATCHES, **CARD),
    'data.mask_rate': Key(
        0.15, "of the tokens of a text, in each view; the paper's", 0.01, 0.99, **BATCHES, **CARD,
    ),
    'data.masking': Key(
        'words', "words: whole words, [MASK] for most; ngrams: MacBERT's, a similar word for most", **BATCHES,
        **CARD, before={'pretrain': 'words'},
    ),
    'data.similar_words': Key('', 'for ngrams: a file that input_pipeline.similar_words wrote', **BATCHES),
    'data.explored_masks': Key(
        1, 'disjoint masks of each text, rows of the same batch; for one encoder', **FEW, **BATCHES, **CARD,
        before={'pretrain': 1},
    ),
    'data.explore_whole': Key(
        False, 'whether they share the whole text; else each has mask_rate of it', **BATCHES,
        before={'pretrain': False},
    ),
    'data.max_anchors': Key(
        20, "words of a text that are contrasted, drawn; the paper's", 0, 10**4, **BATCHES,
    ),
    'data.max_anchor_length': Key(
        4, "their characters, from 2; 0: any number; the paper's", **LENGTH, **BATCHES,
        before={'pretrain': 4},
    ),
    'data.eval_examples': Key(0, 'of the held-out set; 0: all', **ROWS),
    'data.pack': Key(
        False,
        "several texts in a row: batch_size counts rows, char_length and word_length are a row's, 0 being "
        "4 times the corpus's and the words that go with it", **BATCHES, before={'pretrain': False},
    ),
    'data.max_texts': Key(8, 'in a row, which holds about five on average', **FEW, **BATCHES),
    # Files of fine-tuning.
    'data.dataset': Key('', 'a data set whose official files are known; empty: your own', **BATCHES),
    'data.folder': Key('', 'where its files are, under their official names', **BATCHES),
    'data.train': Key('', 'a file instead, or hf:NAME:SPLIT; the same for dev and test', **BATCHES),
    'data.dev': Key('', 'to evaluate on while training; several as a,b where texts are compared', **BATCHES),
    'data.test': Key('', 'to evaluate on at the end, or with mode=evaluate, predict'),
    'data.dev_fraction': Key(
        0.1, 'where there is no dev file: this share of train, chosen by its texts', **RATE, **BATCHES,
    ),
    'data.test_fraction': Key(
        0.0, "where there is no test file: this share of dev's pairs", **RATE, **BATCHES,
        before=dict.fromkeys(('mirror', 'mlctl', 'auto_mlm'), 0.0),
    ),
    'data.vocab': Key('', 'with random weights: a vocab.txt; else it comes with init_from'),
    'data.max_length': Key(
        128, 'tokens of a text, or of a row, special ones included', 8, 2**20, **BATCHES, **CARD,
    ),
    'data.buckets': Key(
        0, 'widths that rows are padded to, each compiled once; 0: as many as cost least on these devices',
        0, 10**4, **BATCHES,
    ),
    'data.segmenter': Key(
        'jieba', 'what cuts text into words, jieba or rjieba; empty: as in pre-training', **BATCHES,
    ),
    'data.hmm': Key(True, 'whether it guesses words that its dictionary lacks', **BATCHES),
    'data.labels': Key(
        (), "in the order of the logits; empty: the data set's, or those found in train", **BATCHES,
    ),
    'data.text_columns': Key(
        (), 'names of the column(s) with the text(s); empty: found by the header', **BATCHES,
    ),
    'data.label_column': Key(
        '', 'of labels; of scores, or of what pairs are (1: they mean the same); empty: found by the header',
        **BATCHES,
    ),
    'data.pairs': Key(
        '',
        'to classify: whether rows are pairs, found out; of words: NAME=FILE,…, lines of two words and a '
        'score',
    ),
    'data.problem_type': Key(
        '', 'single_label_classification, multi_label_classification or regression; empty: found by the '
        'label column of train', choices=('', *PROBLEM_TYPES), **BATCHES,
    ),
    'data.label_separator': Key('', 'what stands between several labels in one cell of a table', **BATCHES),
    'data.language': Key(
        '',
        'of files in several languages, or with {language} in their names: those read, as a,b; empty: all',
        **BATCHES,
    ),
    'data.test_language': Key('', 'the same for test; empty: as language'),
    # Texts longer than a row.
    'data.stride': Key(
        128, "tokens from one window's start to the next; BERT's", **ROW_LIMIT, **BATCHES,
        **CARD,
    ),
    'data.max_question_length': Key(64, "tokens; BERT's", **ROW_LIMIT, **BATCHES),
    'data.max_answer_length': Key(
        100, "tokens of a predicted answer; 3 % of the trial set's are longer", **ROW_LIMIT,
    ),
    'data.n_best': Key(20, 'answers of each question in nbest.json', **FEW),
    'data.scorer': Key('cmrc', 'or drcd', choices=('cmrc', 'drcd')),
    'data.simplify': Key(False, 'read the text in Simplified characters; answers stay as written', **BATCHES),
    # Token classification.
    'data.scheme': Key(
        'BIO', 'of the tags that are learnt, whatever the files have; or BIOES', choices=('BIO', 'BIOES'),
        **BATCHES,
    ),
    # Vectors of texts.
    'data.evaluation': Key(
        'similarity', "by scored pairs; or retrieval: by finding each text's partner",
        choices=('similarity', 'retrieval'),
    ),
    'data.max_strings': Key(10_000, 'distinct texts of train, from its start', **COUNT, **BATCHES),
    'data.mask_span': Key(
        0, 'characters that one [MASK] replaces in one side of a pair; 0: none', **LENGTH, **BATCHES, **CARD,
    ),
    'data.mask_shortest': Key(
        0, 'in texts of so many characters or more', **LENGTH, **BATCHES, **CARD, before={'mirror': 0},
    ),
    'data.latin_mask_span': Key(
        0, 'the same of a text with more Latin letters than Chinese characters', **LENGTH, **BATCHES,
    ),
    'data.latin_mask_shortest': Key(0, 'likewise', **LENGTH, **BATCHES, before={'mirror': 0}),
    'data.shuffle_positions': Key(
        False, 'of the tokens of the second side', **BATCHES, **CARD, before={'mirror': False},
    ),
    'data.alignment': Key('', 'a file of links between words; empty: the model finds them', **BATCHES),
    'data.max_aligned': Key(20, 'pairs of words that count, of a pair of texts', **FEW, **BATCHES),
    # Several models side by side.
    'models': Key('', 'NAME=FOLDER,NAME=FOLDER: Hugging Face BERTs or workdirs; of tables also systems'),
    'reference': Key('', 'the name that the others are compared with; empty: the first'),
    'tasks': Key('', 'names, as a,b'),
    'paper': Key('', "a file with figures beside the paper's own"),
    'classify_from': Key('cls', 'of every task that is classification: cls, pooler or mean'),
    'train_sizes': Key((100, 1000, 10_000), 'labels: the points of the learning curve', **COUNT),
    'draws': Key(5, 'random choices of so many labels, the same for all models', **DRAWS),
    'selection_rows': Key(1000, 'of the training file, that the penalty is chosen by', **COUNT),
    'eval_rows': Key(10_000, 'of the development file, that are reported, chosen at random; 0: all', **ROWS),
    'resamples': Key(10_000, 'of the bootstrap', **DRAWS),
    'samples': Key(1000, 'of the bootstrap', **DRAWS),
    'folds': Key(5, 'of the words: each is held out once', 2, 10**6),
    'data.vectors': Key('', "word vectors in word2vec's text format; empty: trained on the corpus"),
    'data.occurrences': Key(8, 'of a word, at most, whose vectors are averaged', **COUNT),
    'data.min_occurrences': Key(
        3, 'of a word in held-out text, or it is left out of the regression', **COUNT,
    ),
    'data.paraphrases': Key('', 'NAME=FILE,…: two texts a line, and a label, 1 for the same meaning'),
    'data.max_pairs': Key(3000, 'of paraphrases of a file, drawn at random; 0: all', **ROWS),
}  # fmt: skip
KEYS: Mapping[str, Key] = MappingProxyType(_KEYS)
UNKNOWN = Key(None)  # of a config that is not ours: a number is finite, nothing more is known


def defaults(names: str = '', **sections: str) -> ConfigDict:
    """The config of these keys at their defaults, named in a text with spaces between them.

    Args:
      names: keys that are in no section, as 'seed dtype'.
      sections: the keys of each section, as optim='clip_norm schedule'.

    Raises KeyError where a key is declared nowhere.
    """
    config = ConfigDict({name: KEYS[name].default for name in names.split()})
    for name, leaves in sections.items():
        config[name] = ConfigDict({leaf: KEYS[f'{name}.{leaf}'].default for leaf in leaves.split()})
    return config


def find(key: str) -> Key:
    """What is declared of a dotted key, also of a job in a job ('pretrain.optim.clip_norm') and of a task in
    a section ('data.tnews.max_length'); `UNKNOWN` where that is nothing."""
    *sections, leaf = key.split('.')
    for name in (*(f'{part}.{leaf}' for part in reversed(sections)), leaf):
        if name in KEYS:
            return KEYS[name]
    return UNKNOWN
