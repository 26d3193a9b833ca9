"""Classification and reading comprehension: cross-entropies over labels in the batch."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.models.clower import PAD_ID, token_mask
from clower_jax.models.finetuned import Classifier, SpanFinder
from clower_jax.models.kinds import kind_of
from clower_jax.objectives import microbatches
from clower_jax.objectives.base import LOSS, LOSS_PART, SCORE, Metric, MetricSums
from clower_jax.objectives.pretraining import encoder_settings
from clower_jax.ops import dropout, losses


class _Supervised:
    """What the fine-tuning tasks share: a cross-entropy over labels in the batch, −1 where there is none."""

    model: Classifier | SpanFinder
    microbatches: int
    _loss_name: str  # of the loss in the metrics
    _accuracy_name: str

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The total loss, which has a name of its own, too, and the accuracy."""
        return {'loss': LOSS, self._loss_name: LOSS_PART, self._accuracy_name: SCORE}

    def init(self, key: jax.Array) -> dict:
        """Random parameters (fp32), as BERT draws them."""
        ids = jnp.zeros((1, 2), jnp.int32)
        return self.model.init(key, *(ids for _ in self.model.inputs))['params']

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, MetricSums]:
        """The loss of one batch and the sums behind it."""

        def encode(rows: tuple[dict, jax.Array | None]) -> tuple[MetricSums, dict]:
            batch, seeds = rows
            return self._sums(self._logits(params, batch, seeds), batch), {}

        dropout_seeds = None if key is None else dropout.row_seeds(key, len(batch[self.model.inputs[0]]))
        sums, _ = microbatches.encode(encode, (batch, dropout_seeds), self.microbatches)
        loss, count = sums[self._loss_name]
        return loss / jnp.maximum(count, 1), self._counts(batch) | sums

    def evaluate(self, params: dict, batch: dict) -> tuple[MetricSums, dict]:
        """The sums of one batch, without dropout, and its logits."""
        logits = self._logits(params, batch, None)
        sums = self._counts(batch) | self._sums(logits, batch)
        return sums, self._outputs(logits) | {'example': batch['example']}

    def total_loss(self, means: dict) -> jax.Array:
        """The mean cross-entropy; 0 where nothing has a label."""
        return means.get(self._loss_name, 0.0)

    def step_flops(self, config: ConfigDict) -> float:
        """0: steps differ in length."""
        return 0.0

    def _logits(self, params: dict, batch: dict, dropout_seeds: jax.Array | None) -> jax.Array:
        inputs = [batch[name] for name in self.model.inputs]
        return self.model.apply({'params': params}, *inputs, dropout_seeds=dropout_seeds)

    def _sums(self, logits: jax.Array, batch: dict) -> MetricSums:
        part = losses.masked_cross_entropy(logits, self._labels(batch))
        return {self._loss_name: (part.loss, part.count), self._accuracy_name: (part.correct, part.count)}

    def _counts(self, batch: dict) -> MetricSums:
        ids = batch[self.model.inputs[0]]
        counts = {'examples': (ids[:, 0] != PAD_ID).sum(), 'tokens': token_mask(ids).sum()}
        return {name: (value.astype(jnp.float32), jnp.ones(())) for name, value in counts.items()}

    def _labels(self, batch: dict) -> jax.Array:
        raise NotImplementedError

    def _outputs(self, logits: jax.Array) -> dict[str, jax.Array]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Classify(_Supervised):
    """Classification of texts and of pairs: the mean cross-entropy over the rows whose label is not −1.

    Batch: what the network reads, its `inputs`: `char_ids`, `char_segments` [B, L], or `word_ids`,
    `word_segments`, or more; `labels` [B];
    to evaluate also `example` [B], the row's number in its set (−1: padding). Outputs: fp32 `logits` [B, C]
    and `example`.
    """

    model: Classifier
    microbatches: int = 1
    _loss_name, _accuracy_name = 'loss_label', 'acc'

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> 'Classify':
        """Labels are those of `config.data.labels`; `config.model.classify_from` is the pooler where a run
        was begun before it could be chosen."""
        settings = encoder_settings(config, mesh) | {'num_labels': len(config.data.labels)}
        settings['classify_from'] = config.model.get('classify_from', 'pooler')
        kind = kind_of(config)
        if kind.num_tables > 1:
            settings |= {'vocab_size': config.model.base_vocab_size}
            settings['word_vocab_size'] = config.model.vocab_size
        return cls(kind.classifier(**settings), microbatches.number(config, mesh))

    def _labels(self, batch: dict) -> jax.Array:
        return batch['labels']

    def _outputs(self, logits: jax.Array) -> dict[str, jax.Array]:
        return {'logits': logits}


@dataclasses.dataclass(frozen=True)
class FindSpan(_Supervised):
    """Extractive question answering: the mean of the cross-entropies of the first and the last token.

    Batch: `char_ids`, `char_segments` [B, L], `span` [B, 2] (positions in the row; [CLS], 0, where the row
    does not hold the answer; −1: not known, does not count), and `example` as for `Classify`. Outputs: fp32
    `start_logits`, `end_logits` [B, L], and `example`.
    """

    model: SpanFinder
    microbatches: int = 1
    _loss_name, _accuracy_name = 'loss_span', 'acc_span'

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> 'FindSpan':
        """Nothing but the encoder's settings matter. AMBERT finds spans by its characters alone."""
        model = kind_of(config).span_finder(**encoder_settings(config, mesh))
        return cls(model, microbatches.number(config, mesh))

    def _logits(self, params: dict, batch: dict, dropout_seeds: jax.Array | None) -> jax.Array:
        """fp32 [B, 2, L]; padding is no candidate."""
        logits = super()._logits(params, batch, dropout_seeds).swapaxes(1, 2)
        return jnp.where(token_mask(batch['char_ids'])[:, None], logits, jnp.finfo(jnp.float32).min)

    def _labels(self, batch: dict) -> jax.Array:
        return batch['span']

    def _outputs(self, logits: jax.Array) -> dict[str, jax.Array]:
        return {'start_logits': logits[:, 0], 'end_logits': logits[:, 1]}
