"""Classification, regression, reading comprehension, tagging: losses over labels in the batch."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.models.clower import PAD_ID, token_mask
from clower_jax.models.finetuned import Chooser, Classifier, SpanFinder, Tagger
from clower_jax.models.kinds import kind_of
from clower_jax.objectives import microbatches
from clower_jax.objectives.base import INIT_IDS, LOSS, LOSS_PART, SCORE, Metric, MetricSums, initial_params
from clower_jax.objectives.pretraining import encoder_settings
from clower_jax.ops import dropout, losses
from clower_jax.parallel.data_parallel import DataParallel
from input_pipeline.utils.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Supervised:
    """What the fine-tuning tasks share: a loss over labels in the batch, a cross-entropy unless it says
    another; labels of −1 are none."""

    model: Classifier | SpanFinder | Tagger | Chooser
    data_parallel: DataParallel = DataParallel()  # where batches lie
    microbatches: int = 1
    r_drop: float = 0.0  # weight of R-Drop (Liang et al. 2021, arXiv 2106.14448); 0: one pass
    _loss_name: ClassVar[str]  # of the loss in the metrics
    _accuracy_name: ClassVar[str]  # likewise; '': there is none

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The total loss, which has a name of its own, too, and the accuracy where there is one."""
        parts = {name: LOSS_PART for name in (self._loss_name, *(['loss_r_drop'] if self.r_drop else []))}
        accuracy = {self._accuracy_name: SCORE} if self._accuracy_name else {}
        return {'loss': LOSS, **parts, **accuracy}

    def init(self, key: jax.Array) -> dict:
        """Random parameters (fp32), as BERT draws them."""
        return initial_params(self.model, key, *(INIT_IDS for _ in self.model.inputs))

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, MetricSums]:
        """The loss of one batch and the sums behind it; in training with `r_drop` that of two passes, and how
        much they differ."""
        rows = len(batch[self.model.inputs[0]])
        seeds = other_seeds = None
        if key is not None:
            seeds = dropout.row_seeds(key, self._texts(batch))
            if self.r_drop:
                other_seeds = dropout.row_seeds(jax.random.fold_in(key, 1), self._texts(batch))
        per_row = jax.tree.map(lambda x: x.reshape(rows, -1, x.shape[-1]), (seeds, other_seeds))

        def encode(params: dict, rows: tuple[dict, Any]) -> tuple[MetricSums, dict]:
            batch, (seeds, other_seeds) = rows
            logits = self._logits(params, batch, seeds)
            sums = self._sums(logits, batch)
            if other_seeds is not None:  # the means are over both passes
                others = self._logits(params, batch, other_seeds)
                sums = jax.tree.map(jnp.add, sums, self._sums(others, batch))
                sums['loss_r_drop'] = self._divergence(logits, others, self._labels(batch))
            return sums, {}

        sums, _ = microbatches.encode(encode, params, (batch, per_row), self.microbatches, self.data_parallel)
        means = {name: total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}
        return self.total_loss(means), self._counts(batch) | sums

    def evaluate(self, params: dict, batch: dict) -> tuple[MetricSums, dict]:
        """The sums of one batch, without dropout, and its logits."""
        logits = self._logits(params, batch, None)
        sums = self._counts(batch) | self._sums(logits, batch)
        return sums, self._outputs(logits) | {'example': batch['example']}

    def total_loss(self, means: dict) -> jax.Array:
        """The mean loss; 0 where nothing has a label."""
        return means.get(self._loss_name, 0.0) + self.r_drop * means.get('loss_r_drop', 0.0)

    def step_flops(self, config: ConfigDict) -> float:
        """0: steps differ in length."""
        return 0.0

    def _logits(self, params: dict, batch: dict, dropout_seeds: jax.Array | None) -> jax.Array:
        inputs = [batch[name] for name in self.model.inputs]
        seeds = None if dropout_seeds is None else dropout_seeds.reshape(-1, dropout_seeds.shape[-1])
        return self.model.apply({'params': params}, *inputs, dropout_seeds=seeds)

    def _texts(self, batch: dict) -> int:
        """How many texts the network reads of a batch."""
        return len(batch[self.model.inputs[0]])

    def _sums(self, logits: jax.Array, batch: dict) -> MetricSums:
        part = self._part(logits, self._labels(batch))
        accuracy = {self._accuracy_name: (part.correct, part.count)} if self._accuracy_name else {}
        return {self._loss_name: (part.loss, part.count)} | accuracy

    def _counts(self, batch: dict) -> MetricSums:
        ids = batch[self.model.inputs[0]]
        real = ids.reshape(len(ids), -1)[:, 0] != PAD_ID
        counts = {'examples': real.sum(), 'tokens': token_mask(ids.reshape(-1, ids.shape[-1])).sum()}
        return {name: (value.astype(jnp.float32), jnp.ones(())) for name, value in counts.items()}

    def _part(self, logits: jax.Array, labels: jax.Array) -> losses.Sums:
        return losses.masked_cross_entropy(logits, labels)

    def _divergence(
        self, logits: jax.Array, others: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """How much two passes differ where there are labels: the sum, and of how many."""
        return losses.symmetric_divergence(logits, others, labels >= 0)

    def _labels(self, batch: dict) -> jax.Array:
        return batch['labels']

    def _outputs(self, logits: jax.Array) -> dict[str, jax.Array]:
        return {'logits': logits}


@dataclasses.dataclass(frozen=True)
class Classify(_Supervised):
    """Classification of texts and of pairs: the mean cross-entropy over the rows whose label is not −1.

    Batch: what the network reads, its `inputs`: `char_ids`, `char_segments` [B, L], or `word_ids`,
    `word_segments`, or more; `labels` [B];
    to evaluate also `example` [B], the row's number in its set (−1: padding). Outputs: fp32 `logits` [B, C]
    and `example`.
    """

    model: Classifier
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
        return cls(kind.classifier(**settings), **_how(config, mesh))


@dataclasses.dataclass(frozen=True)
class ClassifyMultiLabel(Classify):
    """Any of several labels: the mean of the binary cross-entropies, in rows whose labels are not −1, as in
    BertForSequenceClassification. `labels` is [B, C], 0 and 1."""

    _accuracy_name = ''

    def _part(self, logits: jax.Array, labels: jax.Array) -> losses.Sums:
        return losses.masked_binary_cross_entropy(logits, labels)

    def _divergence(
        self, logits: jax.Array, others: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return losses.symmetric_binary_divergence(logits, others, labels >= 0)


@dataclasses.dataclass(frozen=True)
class Regress(Classify):
    """A score: the mean squared error over the rows whose label is not NaN. `labels` is fp32 [B]; the logit
    is the score."""

    _accuracy_name = ''

    def _part(self, logits: jax.Array, labels: jax.Array) -> losses.Sums:
        return losses.masked_squared_error(logits[:, 0], labels)

    def _divergence(
        self, logits: jax.Array, others: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Squared differences: the divergence of the normal distributions whose likelihood the squared error
        is, both ways the same."""
        none = jnp.where(jnp.isnan(labels), jnp.nan, 0.0)
        part = losses.masked_squared_error(logits[:, 0] - others[:, 0], none)
        return part.loss, part.count


BY_PROBLEM_TYPE = {SINGLE_LABEL: Classify, MULTI_LABEL: ClassifyMultiLabel, REGRESSION: Regress}


def classifier_from_config(config: ConfigDict, mesh: Mesh | None = None) -> Classify:
    """That of `config.data.problem_type`; of one label where a run was begun before there were others."""
    return BY_PROBLEM_TYPE[config.data.get('problem_type') or SINGLE_LABEL].from_config(config, mesh)


@dataclasses.dataclass(frozen=True)
class FindSpan(_Supervised):
    """Extractive question answering: the mean of the cross-entropies of the first and the last token.

    Batch: `char_ids`, `char_segments` [B, L], `span` [B, 2] (positions in the row; [CLS], 0, where the row
    does not hold the answer; −1: not known, does not count), and `example` as for `Classify`. Outputs: fp32
    `start_logits`, `end_logits` [B, L], and `example`.
    """

    model: SpanFinder
    _loss_name, _accuracy_name = 'loss_span', 'acc_span'

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> 'FindSpan':
        """Nothing but the encoder's settings matter. AMBERT finds spans by its characters alone."""
        network = kind_of(config).span_finder(**encoder_settings(config, mesh))
        return cls(network, **_how(config, mesh))

    def _logits(self, params: dict, batch: dict, dropout_seeds: jax.Array | None) -> jax.Array:
        """fp32 [B, 2, L]; padding is no candidate."""
        logits = super()._logits(params, batch, dropout_seeds).swapaxes(1, 2)
        return jnp.where(token_mask(batch['char_ids'])[:, None], logits, jnp.finfo(jnp.float32).min)

    def _labels(self, batch: dict) -> jax.Array:
        return batch['span']

    def _outputs(self, logits: jax.Array) -> dict[str, jax.Array]:
        return {'start_logits': logits[:, 0], 'end_logits': logits[:, 1]}


@dataclasses.dataclass(frozen=True)
class Tag(_Supervised):
    """Token classification: the mean cross-entropy over the tokens whose tag is not −1.

    Batch: `char_ids`, `char_segments`, `tags` [B, L], and `example` as for `Classify`. Outputs: int32 `tags`
    [B, L], the likeliest of each token, and `example`.
    """

    model: Tagger
    _loss_name, _accuracy_name = 'loss_tag', 'acc_tag'

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> 'Tag':
        """Tags are those of `config.data.labels`."""
        network = Tagger(**encoder_settings(config, mesh), num_labels=len(config.data.labels))
        return cls(network, **_how(config, mesh))

    def _labels(self, batch: dict) -> jax.Array:
        return batch['tags']

    def _outputs(self, logits: jax.Array) -> dict[str, jax.Array]:
        return {'tags': jnp.argmax(logits, axis=-1).astype(jnp.int32)}


@dataclasses.dataclass(frozen=True)
class Choose(_Supervised):
    """Multiple choice: the mean cross-entropy over the questions whose label is not −1.

    Batch: `char_ids`, `char_segments` [B, C, L], all 0 where there is no such choice, `labels` [B], and
    `example` as for `Classify`. Outputs: fp32 `logits` [B, C] and `example`.
    """

    model: Chooser
    _loss_name, _accuracy_name = 'loss_label', 'acc'

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> 'Choose':
        """Nothing but the encoder's settings matter."""
        chooser = Chooser(**encoder_settings(config, mesh))
        return cls(chooser, **_how(config, mesh))

    def _texts(self, batch: dict) -> int:
        return math.prod(batch['char_ids'].shape[:2])

    def _logits(self, params: dict, batch: dict, dropout_seeds: jax.Array | None) -> jax.Array:
        """fp32 [B, C]; what there is not is no candidate."""
        ids = batch['char_ids']
        rows = {name: batch[name].reshape(-1, ids.shape[-1]) for name in self.model.inputs}
        logits = super()._logits(params, rows, dropout_seeds).reshape(ids.shape[:2])
        return jnp.where(ids[..., 0] != PAD_ID, logits, jnp.finfo(jnp.float32).min)


def _how(config: ConfigDict, mesh: Mesh | None) -> dict[str, Any]:
    """Fields of `_Supervised`: how batches are encoded, and R-Drop's weight, 0 in runs of before there was
    the key."""
    return microbatches.from_config(config, mesh) | {'r_drop': config.get('loss', {}).get('r_drop', 0.0)}
