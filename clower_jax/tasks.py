"""What is trained: a task is a pure loss over a batch. A new objective is a new task; the loop stays.

A task has
  `init(key) -> params`,
  `loss(params, batch, key) -> (loss, sums)`; key None means no dropout. `sums` maps each metric's name to
     (sum, count), so that its mean over any number of batches is exact,
  `evaluate(params, batch) -> (sums, outputs)`, without dropout; `outputs` are arrays [B, …] that a scorer on
     the host turns into metrics that are no means ({} where there is none),
  `total(means) -> loss`, the training loss out of the metrics' means,
  `step_flops(config) -> float`, FLOPs of a training step; 0 where steps differ.
"""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from clower_jax import losses, metrics, precision
from clower_jax.bert import BertShape
from clower_jax.model import PAD_ID, VIEWS, Classifier, Clower, SpanFinder

SumsByName = dict[str, tuple[jax.Array, jax.Array]]

TASKS = ('pretrain', 'classify', 'span')
SOP_VIEWS = {'both': VIEWS, 'char': ('char',), 'word': ('word',)}


def from_config(config: ConfigDict, data_shards: int) -> 'Pretrain | Classify | FindSpan':
    """The task of `config.task`. Raises ValueError where a config value is not one of its choices."""
    _one_of('task', config.task, TASKS)
    if config.task == 'pretrain':
        return Pretrain.from_config(config, data_shards)
    return Classify.from_config(config) if config.task == 'classify' else FindSpan.from_config(config)


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """L = L_mlm + sop_weight·L_sop + contrast_weight·(L_tcl + L_scl) (the paper, section 3).

    One forward pass over the masked inputs feeds every loss. `data_shards` is the number of parts in which
    the batch lies on the devices; only `contrast_scope='local'` looks at it.
    """

    model: Clower
    sop_weight: float
    contrast_weight: float
    temperature: float
    same_word_negatives: bool
    contrast_scope: str
    sop_on: str
    data_shards: int

    @classmethod
    def from_config(cls, config: ConfigDict, data_shards: int) -> 'Pretrain':
        """Raises ValueError where a config value is not one of its choices."""
        _one_of('loss.mlm_candidates', config.loss.mlm_candidates, ('shared', 'branch'))
        _one_of('loss.contrast_scope', config.loss.contrast_scope, ('global', 'local'))
        _one_of('loss.sop_on', config.loss.sop_on, tuple(SOP_VIEWS))
        longest = max(config.data.char_length, config.data.word_length)
        if longest > config.model.max_positions:
            raise ValueError(
                f'data.char_length={config.data.char_length} and data.word_length={config.data.word_length} '
                f'must not exceed model.max_positions={config.model.max_positions}'
            )
        model = Clower(
            **_encoder(config),
            base_vocab_size=config.model.base_vocab_size,
            mlm_candidates=config.loss.mlm_candidates,
        )
        chosen = ('sop_weight', 'contrast_weight', 'temperature', 'same_word_negatives')
        return cls(
            model=model,
            data_shards=data_shards,
            contrast_scope=config.loss.contrast_scope,
            sop_on=config.loss.sop_on,
            **{name: config.loss[name] for name in chosen},
        )

    def init(self, key: jax.Array) -> dict:
        """Random parameters (fp32), as BERT draws them."""
        ids = jnp.zeros((1, 2), jnp.int32)
        names = ('ids', 'segments', 'mlm_positions')
        return self.model.init(key, {f'{view}_{name}': ids for view in VIEWS for name in names})['params']

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, SumsByName]:
        """The loss of one batch and the sums behind it. Rows that are all padding do not count."""
        rngs = None if key is None else {'dropout': key}
        out = self.model.apply({'params': params}, batch, deterministic=key is None, rngs=rngs)
        real_rows = batch['char_ids'][:, 0] != PAD_ID
        sums: SumsByName = {}

        def add(name, part: losses.Sums):
            sums[f'loss_{name}'] = part.loss, part.count
            sums[f'acc_{name}'] = part.correct, part.count

        for view in VIEWS:
            labels = batch[f'{view}_mlm_labels']
            add(f'mlm_{view}', losses.masked_cross_entropy(out[view]['mlm_logits'], labels))
        sop = [
            losses.masked_cross_entropy(out[view]['sop_logits'], batch['sop_labels'])
            for view in SOP_VIEWS[self.sop_on]
        ]
        add('sop', jax.tree.map(lambda *parts: sum(parts), *sop))
        add('tcl', self._token_contrast(out, batch))
        char_cls, word_cls = (out[view]['hidden'][:, 0] for view in VIEWS)
        add('scl', losses.nt_xent(char_cls, word_cls, real_rows, self.temperature, groups=self._groups))

        means = {name: total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}
        tokens = sum((batch[f'{view}_ids'] != PAD_ID).sum() for view in VIEWS)
        per_batch = {'examples': real_rows.sum(), 'tokens': tokens, 'anchors': sums['acc_tcl'][1]}
        sums |= {name: (jnp.asarray(value, jnp.float32), jnp.ones(())) for name, value in per_batch.items()}
        return self.total(means), sums

    def evaluate(self, params: dict, batch: dict) -> tuple[SumsByName, dict]:
        """The sums of one batch, without dropout; no outputs."""
        return self.loss(params, batch, None)[1], {}

    def step_flops(self, config: ConfigDict) -> float:
        """See `metrics.step_flops`."""
        return metrics.step_flops(config)

    def total(self, means: dict) -> jax.Array:
        """The loss that is minimised, from the means of its parts; a part that nothing counts in is 0."""
        mlm_char, mlm_word, sop, tcl, scl = (
            means.get(f'loss_{part}', 0.0) for part in ('mlm_char', 'mlm_word', 'sop', 'tcl', 'scl')
        )
        return mlm_char + mlm_word + self.sop_weight * sop + self.contrast_weight * (tcl + scl)

    @property
    def _groups(self) -> int:
        return self.data_shards if self.contrast_scope == 'local' else 1

    def _token_contrast(self, out: dict, batch: dict) -> losses.Sums:
        """Each anchor word's vector against the mean of its characters' (the paper, equations 2–4)."""
        position = batch['anchor_word_position'][..., None]
        words = jnp.take_along_axis(out['word']['hidden'], position, axis=1)  # (B, K, D)
        length = batch['anchor_char_length']
        chars = losses.span_means(out['char']['hidden'], batch['anchor_char_start'], length)
        ids = None if self.same_word_negatives else batch['anchor_ids'].reshape(-1)
        width = words.shape[-1]
        return losses.nt_xent(
            chars.reshape(-1, width),
            words.reshape(-1, width),
            length.reshape(-1) > 0,
            self.temperature,
            ids=ids,
            groups=self._groups,
        )


class _Supervised:
    """What the fine-tuning tasks share: a cross-entropy over labels in the batch, −1 where there is none."""

    model: Classifier | SpanFinder
    _name: str  # of the loss in the metrics
    _accuracy: str

    def init(self, key: jax.Array) -> dict:
        """Random parameters (fp32), as BERT draws them."""
        ids = jnp.zeros((1, 2), jnp.int32)
        return self.model.init(key, ids, ids)['params']

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, SumsByName]:
        """The loss of one batch and the sums behind it."""
        return self._loss(self._logits(params, batch, key), batch)

    def evaluate(self, params: dict, batch: dict) -> tuple[SumsByName, dict]:
        """The sums of one batch, without dropout, and its logits."""
        logits = self._logits(params, batch, None)
        return self._loss(logits, batch)[1], self._outputs(logits) | {'example': batch['example']}

    def total(self, means: dict) -> jax.Array:
        """The mean cross-entropy; 0 where nothing has a label."""
        return means.get(self._name, 0.0)

    def step_flops(self, config: ConfigDict) -> float:
        """0: steps differ in length."""
        return 0.0

    def _logits(self, params: dict, batch: dict, key: jax.Array | None) -> jax.Array:
        ids, segments = batch['char_ids'], batch['char_segments']
        rngs = None if key is None else {'dropout': key}
        return self.model.apply({'params': params}, ids, segments, deterministic=key is None, rngs=rngs)

    def _loss(self, logits: jax.Array, batch: dict) -> tuple[jax.Array, SumsByName]:
        part = losses.masked_cross_entropy(logits, self._labels(batch))
        ids = batch['char_ids']
        counts = {'examples': (ids[:, 0] != PAD_ID).sum(), 'tokens': (ids != PAD_ID).sum()}
        sums = {name: (value.astype(jnp.float32), jnp.ones(())) for name, value in counts.items()}
        sums |= {self._name: (part.loss, part.count), self._accuracy: (part.correct, part.count)}
        return part.loss / jnp.maximum(part.count, 1), sums

    def _labels(self, batch: dict) -> jax.Array:
        raise NotImplementedError

    def _outputs(self, logits: jax.Array) -> dict[str, jax.Array]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Classify(_Supervised):
    """Classification of texts and of pairs: the mean cross-entropy over the rows whose label is not −1.

    Batch: `char_ids`, `char_segments` [B, L], `labels` [B]; to evaluate also `example` [B], the row's number
    in its set (−1: padding). Outputs: fp32 `logits` [B, C] and `example`.
    """

    model: Classifier
    _name, _accuracy = 'loss_label', 'acc'

    @classmethod
    def from_config(cls, config: ConfigDict) -> 'Classify':
        """Labels are those of `config.data.labels`."""
        return cls(Classifier(**_encoder(config), num_labels=len(config.data.labels)))

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
    _name, _accuracy = 'loss_span', 'acc_span'

    @classmethod
    def from_config(cls, config: ConfigDict) -> 'FindSpan':
        """Nothing but the encoder's settings matter."""
        return cls(SpanFinder(**_encoder(config)))

    def _logits(self, params: dict, batch: dict, key: jax.Array | None) -> jax.Array:
        """fp32 [B, 2, L]; padding is no candidate."""
        logits = super()._logits(params, batch, key).swapaxes(1, 2)
        return jnp.where(batch['char_ids'][:, None] != PAD_ID, logits, jnp.finfo(jnp.float32).min)

    def _labels(self, batch: dict) -> jax.Array:
        return batch['span']

    def _outputs(self, logits: jax.Array) -> dict[str, jax.Array]:
        return {'start_logits': logits[:, 0], 'end_logits': logits[:, 1]}


def _encoder(config: ConfigDict) -> dict:
    """What every network is made with."""
    return {
        'shape': BertShape(**{f.name: config.model[f.name] for f in dataclasses.fields(BertShape)}),
        'vocab_size': config.model.vocab_size,
        'max_positions': config.model.max_positions,
        'dtype': precision.compute_dtype(config.dtype),
    }


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f'{key}={value!r} must be one of {", ".join(choices)}')
