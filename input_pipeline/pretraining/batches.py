"""Batches for pre-training: the one door between the data and everything else.

    config = resolve(config, workdir)
    for batch in batches(config, start_step=step): ...

The batch of step k is a pure function of (seed, corpus, k): it does not depend on the step that a run started
from, nor on the number of processes that read it.
"""

import copy
import functools
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.corpus import corpus_files, from_text, record_source
from input_pipeline.corpus.corpus_files import HOW_TO_BUILD
from input_pipeline.corpus.from_text import LENGTHS
from input_pipeline.corpus.windows import SPECIAL_TOKENS
from input_pipeline.pretraining import loader, masking, similar_words
from input_pipeline.pretraining.baseline_masks import (
    CharactersWithWords,
    DisjointMasks,
    SecondSentence,
    SimilarWords,
)
from input_pipeline.text.constants import IGNORED_LABEL
from input_pipeline.text.model_inputs import inputs_of, kind_name
from input_pipeline.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

VALIDATION_SEED = 0  # not the run's seed: every run is measured on the same masks
PADDING = {'sop_labels': -1, 'char_mlm_labels': IGNORED_LABEL, 'word_mlm_labels': IGNORED_LABEL}
MASKING = ('words', 'ngrams')
PACKED_ROW = 4  # times the longest text that the corpus may hold; rows twice as long waste over 3 %


def resolve(config: ConfigDict, workdir: str | os.PathLike) -> ConfigDict:
    """A copy of the config with what only the data can tell: `data.corpus`, `data.char_length`,
    `data.word_length`, `model.vocab_size` and `model.base_vocab_size`.

    Where `data.corpus` is empty, a corpus is made of `data.text` ('embedded', or text files as build_corpus
    takes them) in `<workdir>/corpus`, or taken from there if it was made of the same text with the same
    settings.

    Raises ValueError where there is no text and no corpus, or the corpus does not fit the config.
    """
    config = copy.deepcopy(config)
    data = config.data
    check_masks(config)
    if not data.corpus:
        if not data.text:
            raise ValueError(
                f'there is nothing to train on: data.corpus is empty. Make a corpus with\n{HOW_TO_BUILD}\n'
                'and give it with --config.data.corpus=corpus; or, for a small text, let the run make it: '
                "--config.data.text='text/*.txt'"
            )
        texts = copy.deepcopy(data)
        if data.pack:  # a row may be longer than any text
            texts.update({name: min(data[name], config.model.max_positions) for name in LENGTHS})
        data.corpus = os.fspath(from_text.corpus_of(texts, Path(workdir)))
    manifest = read_manifest(data.corpus)
    packed = data.pack
    if packed:
        data.char_length = data.char_length or PACKED_ROW * manifest['char_length']
        words = words_beside(data.char_length, manifest)
        data.word_length = data.word_length or (
            words if 'word' in inputs_of(config).views else data.char_length
        )
    for name in LENGTHS:
        data[name] = data[name] or manifest[name]
        longest = manifest[name] if packed else data[name]  # positions begin anew in each text of a row
        if longest > config.model.max_positions:
            raise ValueError(
                f'data.{name} is {longest}, but the model has {config.model.max_positions} positions '
                f'(model.max_positions): build a corpus with a smaller --{name}'
            )
    check_lengths(data, manifest)
    vocab = vocabulary(config)
    config.model.vocab_size, config.model.base_vocab_size = len(vocab), vocab.base_size
    recipe(config)
    return config


def warn_of_little_text(config: ConfigDict) -> None:
    """Logs what a resolved config's corpus is too small for: a batch of different texts, an evaluation."""
    records = read_manifest(config.data.corpus)['records']
    train, texts = records['train'], config.batch_size // config.data.explored_masks
    if train < texts:
        log.warning(
            '%s has %d training records and a batch %d: each is in a batch more than once, so its words are '
            'their own negatives, and is soon known by heart. Give more text, or --config.batch_size=%d',
            config.data.corpus, train, texts, train * config.data.explored_masks,
        )  # fmt: skip
    if not records['validation']:
        log.warning(
            '%s holds nothing out, so there is no evaluation: that takes a second document (in .txt blank '
            'lines are between documents)',
            config.data.corpus,
        )


def batches(
    config: ConfigDict,
    start_step: int = 0,
    split: str = 'train',
    rows: tuple[int, int] | None = None,
    makers: dict[str, loader.MakeBatch] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of a resolved config, from `start_step` on, as `masking.make_batch` describes them, or with
    `data.pack` as `packing.pack` does; then a row of a batch is one of the plan's.

    Args:
      split: 'train' never ends and shuffles anew each epoch. 'validation' is one pass in order over the first
        `data.eval_examples` records (0: all) with masks that are always the same; rows that complete its last
        batch are all 0, with labels −100, `sop_labels` −1 and so no anchor. A corpus that holds nothing out
        gives no batch.
      rows: (lo, hi), a process's share of the global batch; None is all of it. The same as batch[lo:hi].
      makers: what earlier calls with this config left, by split; this one adds its own. TensorFlow then has
        one graph for all evaluations of a run, which takes a second to make.

    Raises ValueError where the config, the rows or the corpus make no sense.
    """
    data, batch_size = config.data, config.batch_size
    lo, hi = rows or (0, batch_size)
    if batch_size < 1 or not 0 <= lo < hi <= batch_size:
        raise ValueError(f'rows {lo} to {hi} are not within a batch of {batch_size}')
    if start_step < 0:
        raise ValueError(f'start_step is {start_step}; it must be 0 or more')
    if split not in ('train', 'validation'):
        raise ValueError(f"split is {split!r}; a corpus has 'train' and 'validation'")
    if not 0 < data.mask_rate <= 1:
        raise ValueError(f'data.mask_rate is {data.mask_rate}; it must be over 0, and 1 at most')
    if data.eval_examples < 0:
        raise ValueError(f'data.eval_examples is {data.eval_examples}; it must be 0 (all) or more')
    manifest = read_manifest(data.corpus)
    check_lengths(data, manifest)
    of_text = {name: (manifest if data.pack else data)[name] for name in LENGTHS}
    if not 1 <= data.max_anchors <= of_text['word_length']:
        raise ValueError(
            f'data.max_anchors is {data.max_anchors}; it must be between 1 and the words of a text, '
            f'{of_text["word_length"]}'
        )
    train = split == 'train'
    if not manifest['records'][split]:
        if not train:
            return iter(())
        raise ValueError(f'{data.corpus} has no training records; build it again with more text')

    source = record_source.open_split(data.corpus, split)
    wanted = recipe(config)
    if not train:
        # Every model is measured on the same masks.
        wanted = wanted._replace(selection=masking.WordSelection())
    makers = {} if makers is None else makers
    if split not in makers:
        makers[split] = functools.partial(
            masking.make_batch,
            vocabulary=vocabulary(config),
            seed=config.seed if train else VALIDATION_SEED,
            mask_rate=data.mask_rate,
            max_anchors=data.max_anchors,
            max_anchor_length=data.max_anchor_length,
            recipe=wanted,
            **of_text,
        )
    make_batch = makers[split]
    limit = 0 if train else data.eval_examples
    packed = None
    if data.pack:
        capacity = (data.char_length, data.word_length)
        plan = loader.plan_rows(data.corpus, split, capacity, data.max_texts, limit, wanted.views)
        share = wanted.selection.share(data.mask_rate)
        packed = loader.Packed(plan, plan.widths(share, data.max_anchors, wanted.selection.extra))
    if train:
        return loader.train_batches(
            source, make_batch, batch_size, (lo, hi), config.seed, start_step, packed, wanted.selection.masks
        )
    return loader.validation_batches(
        source, make_batch, batch_size, (lo, hi), PADDING, start_step, limit, packed
    )


def recipe(config: ConfigDict) -> masking.Recipe:
    """What the model and its losses want of a batch.

    Raises ValueError where that does not go together, or there is no table of similar words.
    """
    masks, whole, words = check_masks(config)
    inputs = inputs_of(config)
    contrast = config.loss.contrast_on
    wanted = masking.Recipe(
        views=inputs.views, anchors=contrast in ('both', 'token'), swap=config.loss.sop_on != 'none'
    )
    if masks > 1:
        wanted = wanted._replace(selection=DisjointMasks(masks, whole))
    if words == 'ngrams':
        wanted = wanted._replace(replacement=SimilarWords(similar_table(config)))
    if inputs.context:
        wanted = wanted._replace(inputs=SecondSentence())
    if inputs.char_words:
        wanted = wanted._replace(inputs=CharactersWithWords())
    return wanted


def check_masks(config: ConfigDict) -> tuple[int, bool, str]:
    """`data.explored_masks`, `data.explore_whole` and `data.masking`.

    Raises ValueError where they do not go together with each other and the model.
    """
    data, inputs = config.data, inputs_of(config)
    masks, words = data.explored_masks, data.masking
    if masks > 1 and 'word' in inputs.views:
        raise ValueError(
            f'data.explored_masks={masks} divides the characters of a text into masks, and a '
            f'model.kind={kind_name(config)} reads its words, too: take model.kind=bert'
        )
    whole = data.explore_whole
    if whole and masks == 1:
        raise ValueError('data.explore_whole=True needs masks that share a text: data.explored_masks=6, say')
    if masks * data.mask_rate > 1 and not whole:
        raise ValueError(
            f'data.explored_masks={masks} disjoint masks of data.mask_rate={data.mask_rate} each are more '
            f'than a text has: give at most {int(1 / data.mask_rate)} masks'
        )
    if config.batch_size % masks:
        nearest = max(1, round(config.batch_size / masks)) * masks
        raise ValueError(
            f'batch_size={config.batch_size} is not a multiple of data.explored_masks={masks}, the rows of '
            f'each text: the nearest that is: {nearest}'
        )
    if words not in MASKING:
        raise ValueError(f'data.masking={words!r} must be one of {", ".join(MASKING)}')
    if inputs.context and (data.pack or words != 'words'):
        raise ValueError(
            f'model.kind={kind_name(config)} reads two sentences apart: it goes with data.masking=words and '
            "data.pack=False (and data.char_length=0, which then is the corpus's)"
        )
    return masks, whole, words


def similar_table(config: ConfigDict) -> np.ndarray:
    """[V, 4] of the config's similar words as `SimilarWords` has it.

    Raises ValueError where there is no such file, or it is not one.
    """
    path, corpus = config.data.similar_words, config.data.corpus
    if not path or not Path(path).is_file():
        raise ValueError(
            'data.masking=ngrams puts similar words in the place of words, and '
            f'data.similar_words={path!r} is no file. Make it with\n'
            f'  python -m input_pipeline.similar_words --corpus {corpus} --output similar.txt\n'
            'and give it with --config.data.similar_words=similar.txt'
        )
    return _similar_table(os.fspath(path), os.fspath(corpus))


@functools.lru_cache(maxsize=1)
def _similar_table(path: str, corpus: str) -> np.ndarray:
    vocab = Vocabulary.load(Path(corpus, 'vocab.txt'))
    return similar_words.pieces(similar_words.load(path, vocab), vocab)


def vocabulary(config: ConfigDict) -> Vocabulary:
    """The corpus's vocabulary. Raises ValueError where it is not the one that the corpus was made with."""
    manifest = read_manifest(config.data.corpus)
    path = Path(config.data.corpus, 'vocab.txt')
    vocab = Vocabulary.load(path)
    made_with = {'sha256': vocab.sha256(), 'base_size': vocab.base_size, 'size': len(vocab)}
    if not made_with.items() <= manifest['vocabulary'].items():
        raise ValueError(
            f'{path} is not the vocabulary that this corpus was made with; restore it or make the corpus '
            f'again:\n{HOW_TO_BUILD}'
        )
    return vocab


def read_manifest(corpus: str | os.PathLike) -> dict[str, Any]:
    """A corpus folder's manifest.json. Raises ValueError as `corpus_files.read_manifest`."""
    try:
        return corpus_files.read_manifest(corpus)
    except ValueError as error:
        raise ValueError(f'data.corpus={error}') from error


def check_lengths(data: ConfigDict, manifest: dict[str, Any]) -> None:
    """Raises ValueError where a record of the corpus might not fit into a row of the batch."""
    for name in LENGTHS:
        if data[name] < manifest[name]:
            raise ValueError(
                f'data.{name} is {data[name]}, but the records of {data.corpus} have up to {manifest[name]} '
                f'tokens: give that or more (0 takes it), or build a corpus with --{name}={data[name]}'
            )


def words_beside(char_length: int, manifest: dict[str, Any]) -> int:
    """The words that a row of packed texts needs room for beside so many characters: as the corpus has them,
    rounded up to a multiple of 8, and never less than a text may have."""
    special = SPECIAL_TOKENS * sum(manifest['records'].values())
    ratio = (manifest['tokens']['word'] + special) / max(manifest['tokens']['char'] + special, 1)
    return max(8 * math.ceil(char_length * ratio / 8), manifest['word_length'])
