"""Texts → vectors, by an encoder of a run or by any BERT.

from clower_jax import Encoder
vectors = Encoder.load('clower-char').encode(['今天天气很好。', '我们去公园。'])  # fp32 [2, D]
"""

import bisect
import contextlib
import logging
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from tqdm import tqdm

from clower_jax.interop import (
    hf_bert,
    init_weights,
    model_hub,
    sentence_folder,
    vocab_alignment,
    weight_sources,
    wordpiece,
)
from clower_jax.models.bert import EncoderConfig
from clower_jax.models.clower import PAD_ID
from clower_jax.models.finetuned import POOLINGS, SentenceEncoder
from clower_jax.models.kinds import KINDS
from clower_jax.objectives.base import INIT_IDS, initial_params
from clower_jax.parallel import precision, sharding
from clower_jax.utils import flops, folder_files

log = logging.getLogger(__name__)

CHUNK_SIZE = 8192  # texts that are tokenised at a time, while the device is at work on those before
MAX_IN_FLIGHT = 2  # batches that the device was given, and whose vectors were not yet asked for
# By platform; on a CPU it should fit the cache.
BATCH_TOKENS = {'cpu': 2048}
DEFAULT_BATCH_TOKENS = 32_768
# Texts of so many tokens in all get rows of this width at least, which later lists of short texts then fit.
FIRST_WIDTH, FIRST_TOKENS = 64, 512

T = TypeVar('T')
_Text = tuple[int, list[int]]  # its place in a list; its ids
# Texts → the ids of each, special ones included, at most `max_length` of them; how many texts were cut.
Tokenize = Callable[[Sequence[str]], tuple[list[list[int]], int]]


def load_params(
    model: SentenceEncoder, folder: str | Path, info: weight_sources.SourceInfo, tokens: Sequence[str]
) -> dict:
    """The parameters of a frozen encoder, on JAX's first device.

    Args:
      info: what the folder says of itself (`initial.source_info`). tokens: those that the model has, by id.

    Raises ValueError where the folder lacks a part of the encoder.
    """
    abstract = jax.eval_shape(lambda key: initial_params(model, key, INIT_IDS, INIT_IDS), jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)
    vocabulary = vocab_alignment.SourceVocabulary(tokens, info.base_size)
    params, report = init_weights.load_initial(abstract, folder, vocabulary, info.model['num_heads'])
    if report.random:
        raise ValueError(f'{folder} is incomplete. It lacks: {", ".join(report.random)}')
    return params


def _with_kernels_of(params: dict, dtype: jnp.dtype) -> dict:
    """The same with the kernels of products in the dtype that they are computed in, which every call would
    else bring them to."""
    flat = flax.traverse_util.flatten_dict(params)
    flat |= {path: leaf.astype(dtype) for path, leaf in flat.items() if path[-1] == 'kernel'}
    return flax.traverse_util.unflatten_dict(flat)


def batch_tokens() -> int:
    """About how many tokens make a batch on JAX's devices."""
    return BATCH_TOKENS.get(sharding.mesh_platform(None), DEFAULT_BATCH_TOKENS)


class Encoder:
    """A text's vector is the mean of its tokens' last hidden states, or that of [CLS], or see `load`.

    `load` makes one. `size` is D, the length of a vector; `max_length` the tokens of a text that are read,
    [CLS] and [SEP] included; `normalizes` whether all vectors have the length 1. Everything runs on JAX's
    first device.
    """

    def __init__(
        self,
        model: SentenceEncoder,
        params: dict,
        tokenize: Tokenize,
        max_length: int,
        normalizes: bool = False,
    ):
        width = model.config.hidden_size
        self.size = width * len(model.pooling.split(','))
        self.max_length, self.normalizes = max_length, normalizes
        self._tokenize, self._params = tokenize, params
        self._precision = precision.matmul_precision(jnp.dtype(model.dtype).name)
        self._hidden_size = width
        self._forward = jax.jit(
            lambda params, rows: model.apply({'params': params}, *rows, method='packed_vectors')
        )
        self._batch_tokens = batch_tokens()
        self._width_price = flops.width_price(sharding.mesh_platform(None), width)
        self._compiled: set[int] = set()  # widths

    @classmethod
    def load(
        cls,
        folder: str | Path,
        pooling: str = '',
        dtype: str = 'float32',
        max_length: int | None = None,
    ) -> 'Encoder':
        """The encoder of a folder.

        Args:
          folder: a Hugging Face BERT, exported or anybody's, or its name on the hub; a folder of
            sentence-transformers, of which all is done that its modules say; a workdir, of which it is the
            character encoder, of a fine-tuned one the encoder that was fine-tuned, with its best parameters;
            or a TensorFlow checkpoint. Texts are tokenised as transformers does it with the folder; by an
            exported word encoder they are read as words, cut as in its training.
          pooling: 'mean' over a text's tokens, [CLS] and [SEP] included, or 'cls', or 'embeddings', the mean
            of the rows of the token table; several, with commas, stand side by side in one vector. Empty:
            what the encoder was trained with, where it was trained to give vectors, else 'mean'.
          dtype: what products are computed in: 'float32', 'bfloat16' or 'float16'.
          max_length: tokens; None: as many as the folder says that it reads (max_seq_length, or
            model_max_length; of a fine-tuned workdir data.max_length), at most as many as it has positions.

        Raises:
          ValueError: the folder is none of these, it lacks a part of the encoder, it makes vectors in a way
            that is not done here, or an argument makes no sense.
        """
        precise = precision.compute_dtype(dtype)
        if pooling and not set(pooling.split(',')) <= set(POOLINGS):
            raise ValueError(f'pooling={pooling!r} must be one of {", ".join(POOLINGS)}, or several, as a,b')
        recipe = sentence_folder.read(model_hub.local_folder(folder), pooling)
        folder = recipe.transformer
        info = weight_sources.source_info(folder)
        kind = KINDS[info.kind]
        if not kind.is_bert:
            raise ValueError(
                f'{folder} is a model of the kind {info.kind}, which reads words beside characters'
            )
        positions = info.model['max_positions']
        if max_length is None:
            max_length = int(min(recipe.max_length or _read_max_length(folder) or positions, positions))
        if not 3 <= max_length <= positions:
            raise ValueError(
                f'max_length={max_length} must be from 3 ([CLS], a token, [SEP]) to {positions}, the '
                f'positions that {folder} has'
            )
        reads_words = kind.views == ('word',)
        tokens = info.tokens if reads_words else info.tokens[: info.base_size]
        if reads_words:
            tokenize = _word_tokenize(folder, info, max_length)
        else:
            tokenize = _wordpiece_tokenize(
                wordpiece.load_tokenizer(folder, tokens, recipe.lowercase), max_length
            )
        if recipe.prompt:
            tokenize = _with_prompt(recipe.prompt, tokenize)
        model = SentenceEncoder(
            config=EncoderConfig.from_config({**info.model, **info.rates}),
            vocab_size=len(tokens),
            max_positions=positions,
            dtype=precise,
            pooling=recipe.pooling or _read_pooling(folder),
            view='word' if reads_words else 'char',
        )
        params = _with_kernels_of(load_params(model, folder, info, tokens), precise)
        return cls(model, params, tokenize, max_length, recipe.normalize)

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int | None = None,
        normalize: bool = False,
        show_progress: bool | tqdm = False,
    ) -> np.ndarray:
        """The vectors of texts, in their order: fp32 [N, D].

        Short texts share a row, and each sees itself alone; each distinct text is encoded once, and an empty
        text has [CLS] and [SEP] alone. What is over `max_length` is cut off, and the log says of how many
        texts.

        Args:
          texts: N strings, 0 or more.
          batch_size: at most so many in a batch; None: as many as make a batch of about constant size.
          normalize: divide each vector by its length, so that products are cosines; an encoder that
            `normalizes` does it anyway.
          show_progress: a bar on stderr, or one of the caller's that is to be moved on.

        Raises:
          ValueError: `texts` is a single string, one of them is no string or none that can be written in
            UTF-8, or `batch_size` is below 1.
        """
        texts = _check_texts(texts)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f'batch_size={batch_size} must be at least 1')
        index_of = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = np.empty((len(index_of), self.size), np.float32)
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.default_matmul_precision(self._precision))
            if isinstance(show_progress, bool):
                bar = stack.enter_context(tqdm(total=len(texts), unit='text', disable=not show_progress))
            else:
                bar = show_progress
            bar.update(len(texts) - len(index_of))
            batches = self._make_batches(list(index_of), batch_size)
            pending = ((batch, self._forward(self._params, batch.rows)) for batch in batches)
            for batch, batch_vectors in _prefetch(pending, MAX_IN_FLIGHT):
                vectors[batch.numbers] = np.asarray(batch_vectors)[batch.places]
                bar.update(len(batch.numbers))
        if normalize or self.normalizes:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)
        if len(index_of) == len(texts):
            return vectors
        return vectors[[index_of[text] for text in texts]]

    def _make_batches(self, texts: Sequence[str], batch_size: int | None) -> Iterator['_Batch']:
        """Batches of all texts, the longest first."""
        widths: list[int] = []
        waiting = _Waiting()
        had_full_batch = False
        remaining = len(texts)
        for tokenised in self._tokenise_ahead(texts):
            widths = widths or self._choose_widths(self._estimate_lengths(texts, tokenised))
            remaining -= len(tokenised)
            waiting.add(tokenised)
            while waiting.longest:
                width = self._select_width(waiting.longest, widths)
                max_rows = max(1, self._batch_tokens // width)
                rows = _pack(waiting, width, max_rows, batch_size or len(texts))
                num_texts = sum(map(len, rows))
                is_full = len(rows) == max_rows or num_texts == batch_size
                if remaining and not is_full:  # more will come that are as long
                    waiting.add(chain.from_iterable(rows))
                    break
                # What is less than a full batch has one of a few sizes, for every size is compiled; that of
                # full ones where there were any.
                had_full_batch |= len(rows) == max_rows
                height = max_rows if had_full_batch else min(max_rows, 1 << (len(rows) - 1).bit_length())
                yield _lay_out(rows, height, width)

    def _estimate_lengths(self, texts: Sequence[str], tokenised: Sequence['_Text']) -> np.ndarray:
        """int64 [N]: how many tokens each of N texts has, if those that are not yet tokenised have as many a
        character as those that are."""
        num_chars = np.fromiter(map(len, texts), np.int64, len(texts))
        numbers = [number for number, _ in tokenised]
        num_tokens = np.array([len(ids) for _, ids in tokenised], np.int64)
        tokens_per_char = (num_tokens - 2).sum() / max(1, num_chars[numbers].sum())
        lengths = np.ceil(num_chars * tokens_per_char).astype(np.int64) + 2  # [CLS], [SEP]
        lengths[numbers] = num_tokens
        return np.minimum(lengths, self.max_length)

    def _choose_widths(self, lengths: np.ndarray) -> list[int]:
        """The widths of rows that cost least for texts of these lengths, int64 [N], ascending: few texts are
        rather padded more than have a width compiled for them. Exact, by dynamic programming, if only texts
        of one length share a row."""
        counts: dict[int, int] = dict.fromkeys(self._compiled, 0)
        for length, count in zip(*np.unique(lengths, return_counts=True)):
            width = _round_up_width(int(length), self.max_length)
            counts[width] = counts.get(width, 0) + int(count)
        least = max((width for width in counts if counts[width]), default=0)
        if lengths.sum() >= FIRST_TOKENS and least < FIRST_WIDTH:
            least = FIRST_WIDTH
            counts.setdefault(least, 0)
        candidates = np.array(sorted(counts), np.int64)
        # Of the texts that fit the candidates up to each, this being the widest in use: (tokens, widths).
        best: list[tuple[float, list[int]]] = [(0.0, [])]
        for index, width in enumerate(candidates.tolist()):
            compiling = 0.0 if width in self._compiled else self._width_price
            # A row holds several texts. Attention costs a token 4·D·width FLOPs beside the 24·D² of a layer,
            # and as measured (docs/log.md) three times their share of the time.
            attending = 1 + width / (2 * self._hidden_size)
            shares = width / (width // candidates[: index + 1]) * attending
            tokens = [counts[other] * share for other, share in zip(candidates.tolist(), shares)]
            options = [cost + sum(tokens[n:]) for n, (cost, _) in enumerate(best)]
            cheapest = int(np.argmin(options))
            best.append((options[cheapest] + compiling, [*best[cheapest][1], width]))
        return min(
            (option for option in best if max(option[1], default=0) >= least), key=operator.itemgetter(0)
        )[1]

    def _select_width(self, length: int, widths: Sequence[int]) -> int:
        """That of `widths` which holds so many tokens; rarely another, as a character may be two tokens."""
        index = bisect.bisect_left(widths, length)
        width = widths[index] if index < len(widths) else _round_up_width(length, self.max_length)
        self._compiled.add(width)
        return width

    def _tokenise_ahead(self, texts: Sequence[str]) -> Iterator[list['_Text']]:
        """The texts, a part at a time, the part after it being on its way. The longest come first, as their
        characters count: words of Latin letters have fewer tokens."""

        def tokenise(part: list[int]) -> tuple[list[list[int]], int]:
            return self._tokenize([texts[number] for number in part])

        order = sorted(range(len(texts)), key=lambda number: len(texts[number]), reverse=True)
        parts = [order[start : start + CHUNK_SIZE] for start in range(0, len(order), CHUNK_SIZE)]
        num_cut = 0
        with ThreadPoolExecutor(1) as pool:
            pending = (pool.submit(tokenise, part) for part in parts)
            for part, future in zip(parts, _prefetch(pending, 1), strict=True):
                rows, part_cut = future.result()
                num_cut += part_cut
                yield list(zip(part, rows))
        if num_cut:
            log.warning('%d of %d texts were cut to %d tokens', num_cut, len(texts), self.max_length)


def _prefetch(items: Iterable[T], count: int) -> Iterator[T]:
    """The items, each given when `count` more were drawn, and so begun."""
    queue: deque[T] = deque()
    for item in items:
        queue.append(item)
        if len(queue) > count:
            yield queue.popleft()
    yield from queue


def _round_up_width(length: int, longest: int) -> int:
    """The least that holds so many tokens, of 8 widths between n and 2n, but multiples of 4."""
    step = max(4, 1 << (length - 1).bit_length() >> 4)
    return min(-(-length // step) * step, longest)


class _Waiting:
    """Texts by how many tokens they have."""

    def __init__(self) -> None:
        self._texts: dict[int, list[_Text]] = {}
        self._lengths: list[int] = []  # ascending, of those that are there

    def add(self, texts: Iterable[_Text]) -> None:
        for text in texts:
            length = len(text[1])
            if length not in self._texts:
                self._texts[length] = []
                bisect.insort(self._lengths, length)
            self._texts[length].append(text)

    @property
    def longest(self) -> int:
        """Tokens of the longest; 0: there is none."""
        return self._lengths[-1] if self._lengths else 0

    def take(self, most: int) -> _Text | None:
        """The longest text of at most so many tokens."""
        index = bisect.bisect_right(self._lengths, most) - 1
        if index < 0:
            return None
        length = self._lengths[index]
        text = self._texts[length].pop()
        if not self._texts[length]:
            del self._texts[length], self._lengths[index]
        return text


class _Batch(NamedTuple):
    """rows: `ids` [B, L], `segment_ids` [B, L] and `text_starts` [B, S] of `SentenceEncoder.packed_vectors`.
    numbers: of the texts in them. places: of their vectors [B, S, D], ([texts], [texts])."""

    rows: tuple[np.ndarray, np.ndarray, np.ndarray]
    numbers: list[int]
    places: tuple[np.ndarray, np.ndarray]


def _max_texts(width: int) -> int:
    """Texts in a row, at most."""
    return max(1, width // 4)


def _pack(waiting: _Waiting, width: int, max_rows: int, max_texts: int) -> list[list[_Text]]:
    """Takes from `waiting` at most `max_texts` for at most `max_rows` rows of `width` tokens: the longest of
    all begins a row, the longest that still fits goes on with it."""
    rows: list[list[_Text]] = []
    while waiting.longest and len(rows) < max_rows and max_texts:
        row: list[_Text] = []
        room = width
        while max_texts and len(row) < _max_texts(width) and (text := waiting.take(room)):
            row.append(text)
            room -= len(text[1])
            max_texts -= 1
        rows.append(row)
    return rows


def _lay_out(rows: Sequence[Sequence[_Text]], height: int, width: int) -> _Batch:
    """The rows and, up to `height`, empty ones."""
    counts = np.array([len(row) for row in rows])
    numbers, token_lists = zip(*chain.from_iterable(rows))
    lengths = np.array(list(map(len, token_lists)))
    total = int(lengths.sum())
    places = np.repeat(np.arange(len(rows)), counts)
    slots = np.arange(len(numbers)) - np.repeat(counts.cumsum() - counts, counts)
    before = lengths.cumsum() - lengths  # tokens of the batch
    starts = before - np.repeat(before[slots == 0], counts)
    # Where in the rows, put end to end, each token is.
    tokens = np.repeat(places * width + starts - before, lengths) + np.arange(total)
    ids = np.full((height, width), PAD_ID, np.int32)
    segment_ids = np.zeros((height, width), np.int32)
    text_starts = np.zeros((height, _max_texts(width)), np.int32)
    ids.flat[tokens] = np.fromiter(chain.from_iterable(token_lists), np.int32, total)
    segment_ids.flat[tokens] = np.repeat(slots + 1, lengths)
    text_starts[places, slots] = starts
    return _Batch((ids, segment_ids, text_starts), list(numbers), (places, slots))


def _check_texts(texts: Sequence[str]) -> list[str]:
    """Texts that can be tokenised. Raises ValueError where there is another thing, saying which."""
    if isinstance(texts, str):
        raise ValueError('texts is a single string: give a list of texts')
    if not isinstance(texts, Iterable):
        raise ValueError(f'texts is {texts!r}: give a list of texts')
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f'texts[{number}] is {text!r}, no string: leave it out, or give an empty text in its place'
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f'texts[{number}] has half of a character ({text[error.start]!r}, a lone surrogate) at '
                f'{error.start}, so it was decoded wrongly: text.encode("utf-8", "replace").decode() has "?"'
            ) from error
    return texts


def _read_config(folder: Path) -> dict:
    """The config.json of a folder or a workdir, which was read before; {} where there is none."""
    path = folder / 'config.json'
    return folder_files.read_json(path) if path.is_file() else {}


def _read_pooling(folder: Path) -> str:
    """What the encoder of a folder was trained with; 'mean' where that is not known."""
    config = _read_config(folder)
    pooling = hf_bert.clower_entry(config, 'pooling') or config.get('model', {}).get('pooling') or 'mean'
    if pooling not in POOLINGS:
        raise ValueError(f'{folder}/config.json has the pooling {pooling!r}, none of {", ".join(POOLINGS)}')
    return pooling


def _read_max_length(folder: Path) -> float | None:
    """How many tokens of a text a folder says it reads, or a fine-tuned workdir; None where it does not."""
    config = _read_config(folder)
    if config.get('task', 'pretrain') != 'pretrain':
        return config['data'].get('max_length')
    return hf_bert.tokenizer_settings(folder).get('model_max_length')


def _wordpiece_tokenize(tokenizer: tokenizers.Tokenizer, max_length: int) -> Tokenize:
    """Texts as the tokens of BERT's tokenizer."""
    tokenizer.enable_truncation(max_length)

    def tokenize(texts: Sequence[str]) -> tuple[list[list[int]], int]:
        rows = tokenizer.encode_batch_fast(texts)
        return [row.ids for row in rows], sum(bool(row.overflowing) for row in rows)

    return tokenize


def _word_tokenize(folder: Path, info: weight_sources.SourceInfo, max_length: int) -> Tokenize:
    """Texts as words, for a folder or a fine-tuned workdir of the word encoder."""
    # The only thing of the data that a model needs when it is in use; characters are BERT's own matter.
    from input_pipeline.text.vocabulary import Vocabulary
    from input_pipeline.text.word_tokenizer import WordTokenizer

    data = _read_config(folder).get('data', {})  # of a workdir
    segmenter = hf_bert.read_segmenter(folder)
    segmenter = segmenter or {'name': data.get('segmenter', 'jieba'), 'hmm': data.get('hmm', True)}
    tokenizer = WordTokenizer.of(Vocabulary(info.tokens, info.base_size, {'segmenter': segmenter}))
    return lambda texts: tokenizer.rows(texts, max_length)


def _with_prompt(prompt: str, tokenize: Tokenize) -> Tokenize:
    """The same of texts that begin with a prompt."""
    return lambda texts: tokenize([prompt + text for text in texts])
