"""Texts → vectors, by the character encoder of a run or by any BERT.

from clower_jax import Encoder
vectors = Encoder.load('clower-char').encode(['今天天气很好。', '我们去公园。'])  # fp32 [2, D]
"""

import bisect
import contextlib
import json
import logging
import operator
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from tqdm import tqdm

from clower_jax import hugging_face, initial, precision, token_rows, wordpiece
from clower_jax.bert import BertShape
from clower_jax.model import PAD_ID, SentenceEncoder

log = logging.getLogger(__name__)

TOGETHER = 8192  # texts that are tokenised at a time, while the device is at work on those before
IN_FLIGHT = 2  # batches that the device was given, and whose vectors were not yet asked for
# By platform, for any other `OTHER`: about how many tokens make a batch (on a CPU it should fit the cache);
# how many FLOPs are done in the time that compiling a layer takes: a width must spare as many in padding.
BATCHES = {'cpu': (2048, 2e10)}
OTHER = (32_768, 1e14)

T = TypeVar('T')


class Encoder:
    """A text's vector is the mean of its tokens' last hidden states, or that of [CLS], or see `load`.

    `load` makes one. `size` is D, the length of a vector; `max_length` the tokens of a text that are read,
    [CLS] and [SEP] included. Everything runs on JAX's first device.
    """

    def __init__(
        self, model: SentenceEncoder, params: dict, tokenizer: tokenizers.Tokenizer, max_length: int
    ):
        width = model.shape.hidden_size
        self.size, self.max_length = width * len(model.pooling.split(',')), max_length
        self._tokenizer, self._params = tokenizer, params
        self._precision = precision.matmul_precision(jnp.dtype(model.dtype).name)
        self._forward = jax.jit(lambda params, ids: model.apply({'params': params}, ids, jnp.zeros_like(ids)))
        self._batch_tokens, compiling = BATCHES.get(jax.default_backend(), OTHER)
        # A token costs 24·D² FLOPs a layer: what one width more costs, in tokens.
        self._width_costs = compiling / (24 * width**2)
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
          folder: a Hugging Face BERT, exported or anybody's; a workdir, of which it is the character encoder,
            of a fine-tuned one with its best parameters; or a TensorFlow checkpoint. Texts are tokenised by
            its tokenizer.json, or by BERT's tokenizer over its vocab.txt.
          pooling: 'mean' over a text's tokens, [CLS] and [SEP] included, or 'cls', or 'embeddings', the mean
            of the rows of the token table; several, with commas, stand side by side in one vector. Empty:
            what the encoder was trained with, where it was trained to give vectors, else 'mean'.
          dtype: what products are computed in: 'float32', 'bfloat16' or 'float16'.
          max_length: tokens; None: as many as the model has positions.

        Raises:
          ValueError: the folder is none of these, it lacks a part of the encoder, or an argument makes no
            sense.
        """
        info = initial.source_info(folder)
        if info.kind == 'lichee':
            raise ValueError(f'{folder} is a model of the kind lichee, which reads words beside characters')
        positions = info.model['max_positions']
        max_length = positions if max_length is None else max_length
        if not 3 <= max_length <= positions:
            raise ValueError(
                f'max_length={max_length} must be from 3 ([CLS], a token, [SEP]) to {positions}, the '
                f'positions that {folder} has'
            )
        base = info.tokens[: info.base_size]
        model = SentenceEncoder(
            shape=BertShape.of({**info.model, **info.rates}),
            vocab_size=info.base_size,
            max_positions=positions,
            dtype=precision.compute_dtype(dtype),
            pooling=pooling or _pooling(Path(folder)),
        )
        ids = jnp.zeros((1, 3), jnp.int32)
        abstract = jax.eval_shape(model.init, jax.random.key(0), ids, ids)['params']
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)
        vocabulary = token_rows.OwnVocabulary(base, len(base))
        params, report = initial.load_initial(abstract, folder, vocabulary, info.model['num_heads'])
        if report.random:
            raise ValueError(f'{folder} is incomplete. It lacks: {", ".join(report.random)}')
        return cls(model, params, _tokenizer(Path(folder), base, max_length), max_length)

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int | None = None,
        normalize: bool = False,
        show_progress: bool | tqdm = False,
    ) -> np.ndarray:
        """The vectors of texts, in their order: fp32 [N, D].

        Texts of like length share a batch, each distinct text is encoded once, and an empty text is [CLS]
        [SEP]. What is over `max_length` is cut off, and the log says of how many texts.

        Args:
          texts: N of them, 0 or more.
          batch_size: at most so many in a batch; None: as many as make a batch of about constant size.
          normalize: divide each vector by its length, so that products are cosines.
          show_progress: a bar on stderr, or one of the caller's that is to be moved on.

        Raises:
          ValueError: `texts` is a single string, or `batch_size` is below 1.
        """
        if isinstance(texts, str):
            raise ValueError('texts is a single string: give a list of texts')
        if batch_size is not None and batch_size < 1:
            raise ValueError(f'batch_size={batch_size} must be at least 1')
        number_of = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = np.empty((len(number_of), self.size), np.float32)
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.default_matmul_precision(self._precision))
            if isinstance(show_progress, bool):
                bar = stack.enter_context(tqdm(total=len(texts), unit='text', disable=not show_progress))
            else:
                bar = show_progress
            bar.update(len(texts) - len(number_of))
            batches = self._batches(list(number_of), batch_size)
            begun = ((numbers, self._forward(self._params, ids)) for numbers, ids in batches)
            for numbers, found in _ahead(begun, IN_FLIGHT):
                vectors[numbers] = np.asarray(found)[: len(numbers)]
                bar.update(len(numbers))
        if normalize:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)
        if len(number_of) == len(texts):
            return vectors
        return vectors[[number_of[text] for text in texts]]

    def _batches(
        self, texts: Sequence[str], batch_size: int | None
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """The numbers of n texts and their ids, int32 [rows ≥ n, width], 0-padded; the longest first."""
        widths = self._widths(texts)
        waiting: list[tuple[int, list[int]]] = []  # (number, ids), the longest first
        left = len(texts)
        for tokenised in self._tokenised(texts):
            waiting = sorted([*waiting, *tokenised], key=lambda text: len(text[1]), reverse=True)
            start = 0
            while start < len(waiting):
                width = self._width(len(waiting[start][1]), widths)
                most = min(batch_size or self._batch_tokens, max(1, self._batch_tokens // width))
                if len(waiting) - start < most and len(waiting) < left:
                    break  # more will come that are as long
                numbers, rows = zip(*waiting[start : start + most])
                # What is less than a full batch has one of a few sizes, for every size is compiled.
                yield list(numbers), _padded(rows, min(most, 1 << (len(rows) - 1).bit_length()), width)
                start += most
            left -= min(start, len(waiting))
            waiting = waiting[start:]

    def _widths(self, texts: Sequence[str]) -> list[int]:
        """The widths that cost least for these texts, ascending: few texts are rather padded more than have a
        width compiled for them. Exact, by dynamic programming, if a character is a token."""
        lengths = np.minimum(np.fromiter(map(len, texts), np.int64, len(texts)) + 2, self.max_length)
        rows: dict[int, int] = dict.fromkeys(self._compiled, 0)
        for length, count in zip(*np.unique(lengths, return_counts=True)):
            width = _fitting(int(length), self.max_length)
            rows[width] = rows.get(width, 0) + int(count)
        candidates = sorted(rows)
        below = np.concatenate([[0], np.cumsum([rows[width] for width in candidates])])
        # Of the rows that fit the candidates up to each, this being the widest in use: (tokens, widths).
        best: list[tuple[float, list[int]]] = [(0.0, [])]
        for place, width in enumerate(candidates):
            compiling = 0.0 if width in self._compiled else self._width_costs
            options = [cost + width * (below[place + 1] - below[n]) for n, (cost, _) in enumerate(best)]
            least = int(np.argmin(options))
            best.append((options[least] + compiling, [*best[least][1], width]))
        enough = [one for one, under in zip(best, below) if under == len(texts)]
        return min(enough, key=operator.itemgetter(0))[1]

    def _width(self, length: int, widths: Sequence[int]) -> int:
        """That of `widths` which holds so many tokens; rarely another, as a character may be two tokens."""
        place = bisect.bisect_left(widths, length)
        width = widths[place] if place < len(widths) else _fitting(length, self.max_length)
        self._compiled.add(width)
        return width

    def _tokenised(self, texts: Sequence[str]) -> Iterator[Iterator[tuple[int, list[int]]]]:
        """The numbers of the texts with their ids, a part at a time, the part after it being on its way. The
        longest come first, as their characters count: words of Latin letters have fewer tokens."""

        def tokenise(part: list[int]) -> list[tokenizers.Encoding]:
            return self._tokenizer.encode_batch_fast([texts[number] for number in part])

        order = sorted(range(len(texts)), key=lambda number: len(texts[number]), reverse=True)
        parts = [order[start : start + TOGETHER] for start in range(0, len(order), TOGETHER)]
        cut = 0
        with ThreadPoolExecutor(1) as pool:
            begun = (pool.submit(tokenise, part) for part in parts)
            for part, future in zip(parts, _ahead(begun, 1), strict=True):
                encoded = future.result()
                cut += sum(bool(row.overflowing) for row in encoded)
                yield zip(part, [row.ids for row in encoded])
        if cut:
            log.warning('%d of %d texts were cut to %d tokens', cut, len(texts), self.max_length)


def _ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The items, each given when `count` more were drawn, and so begun."""
    drawn: deque[T] = deque()
    for item in items:
        drawn.append(item)
        if len(drawn) > count:
            yield drawn.popleft()
    yield from drawn


def _fitting(length: int, longest: int) -> int:
    """The least that holds so many tokens, of 8 widths between n and 2n, but multiples of 4."""
    step = max(4, 1 << (length - 1).bit_length() >> 4)
    return min(-(-length // step) * step, longest)


def _padded(rows: Sequence[Sequence[int]], height: int, width: int) -> np.ndarray:
    """int32 [height, width], rows from the top left, else [PAD]."""
    ids = np.full((height, width), PAD_ID, np.int32)
    lengths = np.array(list(map(len, rows)))
    real = np.arange(width) < lengths[:, None]
    ids[: len(rows)][real] = np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum())
    return ids


def _pooling(folder: Path) -> str:
    """What the encoder of a folder was trained with; 'mean' where that is not known."""
    path = folder / 'config.json'
    config = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    own = hugging_face.own_entry(config, 'pooling')
    return own or config.get('model', {}).get('pooling') or 'mean'


def _tokenizer(folder: Path, tokens: Sequence[str], max_length: int) -> tokenizers.Tokenizer:
    """That of a folder, to cut at `max_length` and not to pad."""
    path = folder / 'tokenizer.json'
    if path.is_file():
        try:
            made = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more exact
            raise ValueError(f'{path} is no tokenizer ({error}): it may be damaged') from error
    else:
        made = wordpiece.tokenizer(tokens, lowercase=not hugging_face.is_cased(folder))
    if made.id_to_token(PAD_ID) != tokens[PAD_ID] or made.get_vocab_size() > len(tokens):
        raise ValueError(
            f'{path} has other tokens than the model ({made.get_vocab_size()}, not {len(tokens)}): it may be '
            'of another one, or have got new ones'
        )
    made.no_padding()
    made.enable_truncation(max_length)
    return made
