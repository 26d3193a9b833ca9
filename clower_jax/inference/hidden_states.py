"""Last hidden states of a frozen character encoder, averaged over spans of tokens."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from clower_jax.inference.encoder import batch_tokens, load_params
from clower_jax.interop import weight_sources, wordpiece
from clower_jax.models.bert import EncoderConfig
from clower_jax.models.clower import PAD_ID
from clower_jax.models.finetuned import SentenceEncoder
from clower_jax.models.kinds import KINDS
from clower_jax.parallel import precision

WIDTH = 8  # rows are padded to a multiple of this


class HiddenStates:
    """A frozen character encoder and its tokens.

    `token_vectors` fp32 [V, D]: the token embeddings alone, before anything is added to them. `max_length`:
    tokens of a row, [CLS] and [SEP] included.
    """

    def __init__(
        self, model: SentenceEncoder, params: dict, tokens: Sequence[str], tokenizer: tokenizers.Tokenizer
    ):
        self.max_length = model.max_positions
        self.token_vectors = np.asarray(params['embeddings']['word_embeddings']['embedding'], np.float32)
        self._id = {token: row for row, token in enumerate(tokens)}
        self._tokenizer = tokenizer
        self._tokenizer.enable_truncation(self.max_length)
        self._params = params
        self._precision = precision.matmul_precision(jnp.dtype(model.dtype).name)
        self._encode = jax.jit(
            lambda params, ids: model.apply(
                {'params': params}, ids, jnp.zeros_like(ids), None, method='encode'
            ).astype(jnp.float32)
        )

    @classmethod
    def load(cls, folder: str | Path, dtype: str = 'float32') -> 'HiddenStates':
        """The character encoder of a Hugging Face BERT, a workdir or a TensorFlow checkpoint.

        Raises ValueError where the folder is none of these, or lacks a part of the encoder.
        """
        info = weight_sources.source_info(folder)
        kind = KINDS[info.kind]
        if not kind.is_bert or 'char' not in kind.views:
            raise ValueError(
                f'{folder} is a model of the kind {info.kind}: it reads words, not characters alone'
            )
        base = info.tokens[: info.base_size]
        model = SentenceEncoder(
            config=EncoderConfig.from_config({**info.model, **info.rates}),
            vocab_size=info.base_size,
            max_positions=info.model['max_positions'],
            dtype=precision.compute_dtype(dtype),
        )
        params = load_params(model, folder, info, base)
        return cls(model, params, base, wordpiece.load_tokenizer(info.folder, base))

    def ids(self, tokens: Sequence[str]) -> np.ndarray:
        """int32 [n]: the rows of tokens; of those that the vocabulary does not have, that of [UNK]."""
        unknown = self._id['[UNK]']
        return np.fromiter((self._id.get(token, unknown) for token in tokens), np.int32, len(tokens))

    def rows(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text as int32 [CLS] … [SEP], cut at its end to `max_length`."""
        return [np.array(x.ids, np.int32) for x in self._tokenizer.encode_batch_fast(list(texts))]

    def add_special_tokens(self, ids: np.ndarray) -> np.ndarray:
        """int32 [n + 2]: [CLS] ids [SEP]."""
        return np.concatenate([[self._id['[CLS]']], ids, [self._id['[SEP]']]]).astype(np.int32)

    def span_means(
        self, rows: Sequence[np.ndarray], row: np.ndarray, start: np.ndarray, length: np.ndarray
    ) -> np.ndarray:
        """fp32 [S, D]: for each span the mean of the last hidden states of its tokens.

        Args:
          rows: token ids, special ones included, each row at most `max_length` long.
          row, start, length: int [S], the row of each span, its first token and its tokens, 1 or more.
        """
        row, start, length = map(np.asarray, (row, start, length))
        means = np.empty((len(row), self.token_vectors.shape[1]), np.float32)
        by_row = np.argsort(row, kind='stable')
        first_span = np.searchsorted(row[by_row], np.arange(len(rows) + 1))  # of each row, among those
        max_tokens = batch_tokens()
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]), reverse=True)
        batch_start = 0
        with jax.default_matmul_precision(self._precision):
            while batch_start < len(order):
                width = min(-(-len(rows[order[batch_start]]) // WIDTH) * WIDTH, self.max_length)
                height = max(1, max_tokens // width)
                row_numbers = order[batch_start : batch_start + height]
                ids = np.full((height, width), PAD_ID, np.int32)
                for batch_row, number in enumerate(row_numbers):
                    ids[batch_row, : len(rows[number])] = rows[number]
                hidden = np.asarray(self._encode(self._params, ids), np.float64)
                sums = np.pad(hidden.cumsum(axis=1), ((0, 0), (1, 0), (0, 0)))
                spans = [by_row[first_span[number] : first_span[number + 1]] for number in row_numbers]
                batch_rows = np.repeat(np.arange(len(row_numbers)), list(map(len, spans)))
                span_index = np.concatenate(spans)
                starts = start[span_index]
                total = sums[batch_rows, starts + length[span_index]] - sums[batch_rows, starts]
                means[span_index] = total / length[span_index, None]
                batch_start += height
        return means
