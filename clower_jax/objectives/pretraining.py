"""The task of pre-training CLOWER: both views' MLM, sentence order, and the contrast between the views."""

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.models.bert import EncoderConfig
from clower_jax.models.clower import PAD_ID, VIEWS, Clower, token_mask
from clower_jax.models.kinds import KINDS, PRETRAINED, kind_of
from clower_jax.objectives import microbatches
from clower_jax.objectives.base import (
    COUNT,
    INIT_IDS,
    LOSS,
    LOSS_PART,
    SCORE,
    Metric,
    MetricSums,
    initial_params,
)
from clower_jax.ops import dropout, losses
from clower_jax.ops.fused_cross_entropy import linear_cross_entropy
from clower_jax.ops.linear import dot, rows_at
from clower_jax.ops.nt_xent import normalize, nt_xent
from clower_jax.parallel import precision, sharding
from clower_jax.parallel.data_parallel import DataParallel
from clower_jax.utils import flops

# Layers that become one loop, on TPUs, whose compiler takes minutes for a dozen of them unrolled. On GPUs a
# loop moves 1.8 times the bytes (docs/performance.md); on CPUs it is slower, too.
SCAN_MIN_LAYERS = 6

SOP_VIEWS = {'both': VIEWS, 'char': ('char',), 'word': ('word',), 'none': ()}
# Of a held-out batch: rows that are shown, guesses of each masked token, words near each word.
SHOWN_ROWS, SHOWN_GUESSES, SHOWN_WORDS = 2, 3, 5
CONTRASTS = {'both': ('token', 'sentence'), 'token': ('token',), 'sentence': ('sentence',), 'none': ()}


def part_metrics(*parts: str) -> dict[str, Metric]:
    """An objective's `metrics`, given the parts of its loss: the names that `metric_sums` gives them."""
    of_losses = {f'loss_{part}': LOSS_PART for part in parts}
    return {'loss': LOSS, **of_losses, **{f'acc_{part}': SCORE for part in parts}}


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """L = L_mlm + sop_weight·L_sop + contrast_weight·(L_tcl + L_scl) (the paper, section 3).

    Its baselines and ablations leave parts out: `sop_on` and `contrast_on` say which encoders predict the
    order, and which of L_tcl ('token') and L_scl ('sentence') there are; some kinds of model have the
    character view alone. What is left out is not computed, and a batch need not hold what it would take.

    One forward pass over the masked inputs feeds every loss. With `microbatches` = m > 1 the encoders see an
    m-th of the batch at a time and run again in the backward pass (`microbatches.encode`): memory is that of
    one micro-batch. `data_parallel` says where the batch lies.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        **part_metrics('mlm_char', 'mlm_word', 'sop', 'tcl', 'scl'),
        'anchors': COUNT,
    }
    model: Clower
    sop_weight: float
    contrast_weight: float
    temperature: float
    same_word_negatives: bool
    contrast_scope: str
    sop_on: str
    contrast_on: str = 'both'
    microbatches: int = 1
    data_parallel: DataParallel = DataParallel()

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> Self:
        """Raises ValueError where a config value is not one of its choices."""
        check_choice('loss.mlm_candidates', config.loss.mlm_candidates, ('shared', 'branch'))
        check_choice('loss.contrast_scope', config.loss.contrast_scope, ('global', 'local'))
        check_choice('loss.sop_on', config.loss.sop_on, tuple(SOP_VIEWS))
        check_choice('loss.contrast_on', config.loss.contrast_on, tuple(CONTRASTS))
        check_choice('model.kind', config.model.kind, PRETRAINED)
        views = KINDS[config.model.kind].views
        if config.loss.sop_on == 'word' and 'word' not in views:
            raise ValueError(f'loss.sop_on=word, but a model.kind={config.model.kind} has no word encoder')
        if config.loss.contrast_on != 'none' and views != VIEWS:
            raise ValueError(
                f'loss.contrast_on={config.loss.contrast_on} is a contrast of two views, and a '
                f'model.kind={config.model.kind} has one: take none'
            )
        longest = max(config.data.char_length, config.data.word_length)
        if longest > config.model.max_positions and not config.data.get('pack', False):
            raise ValueError(
                f'data.char_length={config.data.char_length} and data.word_length={config.data.word_length} '
                f'must not exceed model.max_positions={config.model.max_positions}'
            )
        chosen = ('sop_weight', 'contrast_weight', 'temperature', 'same_word_negatives')
        return cls(
            model=cls.network(config, mesh),
            contrast_scope=config.loss.contrast_scope,
            sop_on=config.loss.sop_on,
            contrast_on=config.loss.contrast_on,
            **microbatches.from_config(config, mesh),
            **{name: config.loss[name] for name in chosen},
        )

    @staticmethod
    def network(config: ConfigDict, mesh: Mesh | None = None) -> Clower:
        """What is trained."""
        kind = KINDS[config.model.kind]
        return kind.network(
            **encoder_settings(config, mesh),
            base_vocab_size=config.model.base_vocab_size,
            mlm_candidates=config.loss.mlm_candidates,
            views=kind.views,
        )

    def init(self, key: jax.Array) -> dict:
        """Random parameters (fp32), as BERT draws them."""
        batch = dict.fromkeys(self.model.inputs, INIT_IDS)
        return initial_params(self.model, key, batch)

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, MetricSums]:
        """The loss of one batch and the sums behind it. Rows that are all padding do not count."""
        sums, _ = self._measure(params, batch, key)
        means = {name: total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}
        return self.total_loss(means), sums | self._batch_counts(sums, batch)

    def evaluate(self, params: dict, batch: dict) -> tuple[MetricSums, dict]:
        """The sums of one batch, without dropout; outputs are of its first rows alone (see `_shown`)."""
        sums, vectors = self._measure(params, batch, None, show=True)
        return sums | self._batch_counts(sums, batch), self._shown(vectors, batch)

    def _measure(
        self, params: dict, batch: dict, key: jax.Array | None, show: bool = False
    ) -> tuple[MetricSums, dict]:
        """The sums of all losses, and what `_encode` gives beside its own."""
        dropout_seeds = None if key is None else dropout.row_seeds(key, len(batch['char_ids']))
        encode = functools.partial(self._encode, show=show)
        rows = batch, dropout_seeds
        sums, vectors = microbatches.encode(encode, params, rows, self.microbatches, self.data_parallel)
        return sums | self._contrast(vectors, batch), vectors

    def _batch_counts(self, sums: MetricSums, batch: dict) -> MetricSums:
        tokens = sum(token_mask(batch[name]).sum() for name in self.model.inputs if name.endswith('_ids'))
        per_batch = {'examples': valid_texts(batch).sum(), 'tokens': tokens}
        if 'acc_tcl' in sums:
            per_batch['anchors'] = sums['acc_tcl'][1]
        return {name: (jnp.asarray(value, jnp.float32), jnp.ones(())) for name, value in per_batch.items()}

    def step_flops(self, config: ConfigDict) -> float:
        """See `flops.step_flops`."""
        return flops.step_flops(config, self.model.views, kind_of(config).num_tables > 1)

    def total_loss(self, means: dict) -> jax.Array:
        """The loss that is minimised, from the means of its parts; a part that nothing counts in is 0."""
        mlm_char, mlm_word, sop, tcl, scl = (
            means.get(f'loss_{part}', 0.0) for part in ('mlm_char', 'mlm_word', 'sop', 'tcl', 'scl')
        )
        return mlm_char + mlm_word + self.sop_weight * sop + self.contrast_weight * (tcl + scl)

    def _encode(
        self, params: dict, rows: tuple[dict, jax.Array | None], show: bool = False
    ) -> tuple[MetricSums, dict]:
        """The sums of the losses that need no other row, and the vectors that are contrasted, as far as they
        are: `char_cls`, `word_cls` [B, S, D], `anchor_chars`, `anchor_words` [B, K, D]. To be shown there are
        also the likeliest tokens of the masked ones, `<view>_guesses` int [R, P, G] and their `<view>_shares`
        fp32, of the first rows. rows: a batch and the seeds of its rows' dropout."""
        batch, dropout_seeds = rows
        out = self.model.apply({'params': params}, batch, dropout_seeds)
        sums: MetricSums = {}
        for view in self.model.views:
            labels = batch[f'{view}_mlm_labels']
            table, bias = out[view]['decoder']
            part = linear_cross_entropy(
                out[view]['mlm_vectors'], table, bias, labels, mesh=self.data_parallel.inner_mesh
            )
            sums |= metric_sums(f'mlm_{view}', part)
        sop_labels = batch['sop_labels'].reshape(out['char']['cls'].shape[:2])
        sop = [
            losses.masked_cross_entropy(out[view]['sop_logits'], sop_labels)
            for view in SOP_VIEWS[self.sop_on]
            if view in self.model.views
        ]
        if sop:
            sums |= metric_sums('sop', jax.tree.map(lambda *parts: sum(parts), *sop))
        vectors: dict[str, jax.Array] = {}
        if 'sentence' in CONTRASTS[self.contrast_on]:
            vectors |= {f'{view}_cls': out[view]['cls'] for view in VIEWS}
        if 'token' in CONTRASTS[self.contrast_on]:
            start, length = batch['anchor_char_start'], batch['anchor_char_length']
            vectors['anchor_chars'] = losses.span_means(out['char']['hidden'], start, length)
            vectors['anchor_words'] = rows_at(out['word']['hidden'], batch['anchor_word_position'])
        for view in self.model.views if show else ():
            masked = out[view]['mlm_vectors'][: max(1, SHOWN_ROWS // self.microbatches)]
            table, bias = out[view]['decoder']
            logits = dot(masked.reshape(-1, masked.shape[-1]), table.astype(masked.dtype), transposed=True)
            top = jax.lax.top_k(jax.nn.softmax(logits + bias), SHOWN_GUESSES)
            shares, guesses = (x.reshape(*masked.shape[:2], -1) for x in top)
            vectors |= {f'{view}_guesses': guesses, f'{view}_shares': shares}
        return sums, vectors

    def _shown(self, vectors: dict, batch: dict) -> dict[str, jax.Array]:
        """What the first rows of a batch, `SHOWN_ROWS` or as many as a micro-batch each, look like to the
        model: for each view `<view>_ids` [R, L], `<view>_mlm_positions`, `<view>_mlm_labels` [R, P],
        `<view>_guesses`, `<view>_shares` [R, P, G]; with a contrast of words `anchor_ids`,
        `anchor_char_length` [R, K], `anchor_cosines` [R, K, K] of each anchor's characters with the words of
        its row, and of all words of the batch the nearest, `near_ids`, `near_cosines` [R, K, N]."""
        # Of several devices the first one's rows, which are the batch's first.
        mesh = self.data_parallel.mesh
        local = len(batch['char_ids']) // (mesh.size if mesh and self.data_parallel.apart else 1)
        rows = min(max(1, SHOWN_ROWS // self.microbatches), local // self.microbatches) * self.microbatches
        parts = ('ids', 'mlm_positions', 'mlm_labels')
        names = [f'{view}_{part}' for view in self.model.views for part in parts]
        if 'anchor_chars' in vectors:
            names += ['anchor_ids', 'anchor_char_length']
        shown = {name: batch[name][:rows] for name in names}
        shown |= {name: vectors[name][:rows] for name in vectors if name.endswith(('_guesses', '_shares'))}
        if 'anchor_chars' in vectors:
            chars, words = (normalize(vectors[f'anchor_{side}']) for side in ('chars', 'words'))
            cosines = jnp.einsum('rkd,bjd->rkbj', chars[:rows], words)
            cosines = jnp.where(batch['anchor_char_length'] > 0, cosines, -1.0)
            shown['anchor_cosines'] = jnp.stack([cosines[row, :, row] for row in range(rows)])
            flat = cosines.reshape(*cosines.shape[:2], -1)
            shown['near_cosines'], index = jax.lax.top_k(flat, min(SHOWN_WORDS, flat.shape[-1]))
            shown['near_ids'] = batch['anchor_ids'].reshape(-1)[index]
        return shown

    def _contrast(self, vectors: dict, batch: dict) -> MetricSums:
        """Each anchor word's vector against the mean of its characters', and [CLS] against [CLS] of each text
        (the paper, equations 2–4)."""
        mesh = self.data_parallel.mesh
        contrast = functools.partial(
            nt_xent,
            temperature=self.temperature,
            groups=sharding.data_shards(mesh) if mesh and self.contrast_scope == 'local' else 1,
            mesh=mesh,
            # The vectors come in bf16: so they travel between devices, and so their products are made.
            operands='bfloat16' if self.model.dtype == jnp.bfloat16 else 'float32',
        )

        def flat(x: jax.Array) -> jax.Array:
            return x.reshape(-1, *x.shape[2:])

        sums: MetricSums = {}
        if 'anchor_chars' in vectors:
            ids = None if self.same_word_negatives else flat(batch['anchor_ids'])
            valid = flat(batch['anchor_char_length']) > 0
            part = contrast(flat(vectors['anchor_chars']), flat(vectors['anchor_words']), valid, ids=ids)
            sums |= metric_sums('tcl', part)
        if 'char_cls' in vectors:
            valid = valid_texts(batch).reshape(-1)
            sums |= metric_sums('scl', contrast(flat(vectors['char_cls']), flat(vectors['word_cls']), valid))
        return sums


def valid_texts(batch: dict) -> jax.Array:
    """bool [B, S]: which texts there are; a row that is all padding has none."""
    first = batch['char_ids'][:, :1] != PAD_ID
    starts = batch.get('char_starts')
    return first if starts is None else jnp.concatenate([first, starts[:, 1:] > 0], axis=1)


def metric_sums(name: str, part: losses.Sums) -> MetricSums:
    """A loss and the accuracy that goes with it, as a task's sums have them."""
    return {f'loss_{name}': (part.loss, part.count), f'acc_{name}': (part.correct, part.count)}


def encoder_settings(config: ConfigDict, mesh: Mesh | None) -> dict:
    """What every network is made with; `mesh`: of the devices that it is compiled for."""
    encoder_config = EncoderConfig.from_config(config.model)
    platform, attention = sharding.mesh_platform(mesh), encoder_config.attention
    if attention == 'auto':
        attention = 'fused' if _takes_fused_attention(encoder_config, config.dtype, mesh) else 'own'
    return {
        'config': dataclasses.replace(
            encoder_config,
            attention=attention,
            scan_layers=platform == 'tpu' and encoder_config.num_layers >= SCAN_MIN_LAYERS,
        ),
        'vocab_size': config.model.vocab_size,
        'max_positions': config.model.max_positions,
        'dtype': precision.compute_dtype(config.dtype),
    }


def _takes_fused_attention(encoder: EncoderConfig, dtype: str, mesh: Mesh | None) -> bool:
    """Whether `fused_attention` is there for the devices, and for heads that both its parts take."""
    width = encoder.hidden_size // encoder.num_heads
    return (
        sharding.mesh_platform(mesh) == 'gpu'
        and dtype in ('bfloat16', 'float16')
        and width % 8 == 0
        and width <= 128
        # Where a mesh splits more than the batch, XLA cuts up layers, but not a kernel.
        and (mesh is None or mesh.shape['data'] == mesh.size)
        # Announced to leave JAX.
        and importlib.util.find_spec('jax.experimental.pallas.triton') is not None
    )


def predicts_order(config: Mapping[str, Any], view: str) -> bool:
    """Whether a pre-training run, given its config.json, trains a view's head for sentence order."""
    loss = config.get('loss', {})
    return loss.get('sop_weight', 1) > 0 and view in SOP_VIEWS[loss.get('sop_on', 'both')]


def trains_pooler(config: Mapping[str, Any], view: str) -> bool:
    """Whether it trains the pooler that a view goes through. Sentence order alone does: its gradient is
    exactly 0 for every other loss. AMBERT has one pooler for both views."""
    return any(predicts_order(config, other) for other in kind_of(config).views_sharing_encoder(view))


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError where the value is not one of the choices."""
    if value not in choices:
        raise ValueError(f'{key}={value!r} must be one of {", ".join(choices)}')
