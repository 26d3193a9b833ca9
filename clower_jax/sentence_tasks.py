"""Tasks that make a text's vector mean what the text means: contrastive learning on pairs of texts.

Batch of all of them: `char_ids`, `char_segments` [B, L] (the first side), `example` [B] (−1: padding), and to
train `other_ids`, `other_segments` [B, L] (the second side). Outputs of an evaluation: fp32 `vectors` [B, D]
of the first side, and `example`; what they are worth is found by comparing them.
"""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from clower_jax import dropout, losses
from clower_jax.model import PAD_ID, SentenceEncoder, real_tokens
from clower_jax.pretraining import SumsByName, encoder_settings, named


@dataclasses.dataclass(frozen=True)
class SentenceTask:
    """What they share: how vectors are made and evaluated. A task adds `loss`, `total` and `from_config`."""

    model: SentenceEncoder

    def init(self, key: jax.Array) -> dict:
        """Random parameters (fp32), as BERT draws them."""
        ids = jnp.zeros((1, 2), jnp.int32)
        return self.model.init(key, ids, ids)['params']

    def evaluate(self, params: dict, batch: dict) -> tuple[SumsByName, dict]:
        """The vectors of one batch, without dropout. There is no loss: an evaluation is of single texts."""
        vectors = self.model.apply({'params': params}, batch['char_ids'], batch['char_segments'])
        return {}, {'vectors': vectors, 'example': batch['example']}

    def step_flops(self, config: ConfigDict) -> float:
        """0: steps differ in length."""
        return 0.0


@dataclasses.dataclass(frozen=True)
class Mirror(SentenceTask):
    """Mirror-BERT (Liu et al. 2021, arXiv 2104.08027): a text and its copy are a positive pair; they differ
    in what is masked in the copy and in what dropout leaves out. All other texts of the batch, of either
    side, are negatives (equation 2, `losses.info_nce`).
    """

    temperature: float

    @classmethod
    def from_config(cls, config: ConfigDict) -> 'Mirror':
        """`model.pooling` and `loss.temperature` matter beside the encoder's settings.

        Raises ValueError where nothing is masked or dropped: both sides of a pair would be the same.
        """
        if not (config.data.mask_span or drops(config.model)):
            raise ValueError(
                'data.mask_span=0, model.dropout=0, model.attention_dropout=0 and model.drophead=0: both '
                'sides of every pair are the same. Set one of them'
            )
        return cls(
            SentenceEncoder(**encoder_settings(config), pooling=config.model.pooling), config.loss.temperature
        )

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, SumsByName]:
        """The loss of one batch, a mean over its pairs, and the sums behind it; key None: no dropout."""
        a, b = both_sides(self.model, params, batch, key)
        part = losses.info_nce(a, b, batch['char_ids'][:, 0] != PAD_ID, self.temperature)
        return part.loss / jnp.maximum(part.count, 1), named('contrast', part) | counts(batch)

    def total(self, means: dict) -> jax.Array:
        """The mean contrastive loss."""
        return means.get('loss_contrast', 0.0)


def drops(model: ConfigDict) -> bool:
    """Whether anything is left out of two passes over the same text."""
    return bool(model.dropout or model.attention_dropout or model.drophead)


def both_sides(
    model: SentenceEncoder, params: dict, batch: dict, key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The vectors of both sides, fp32 [B, D] each, out of one pass; every row has a dropout of its own."""
    ids, segments = interleaved(batch, 'ids'), interleaved(batch, 'segments')
    keys = None if key is None else dropout.row_keys(key, len(ids))
    vectors = model.apply({'params': params}, ids, segments, keys)
    return sides(vectors)


def interleaved(batch: dict, name: str) -> jax.Array:
    """[2·B, L]: the rows of both sides, a pair's next to each other: on a mesh they are on one device."""
    pairs = jnp.stack([batch[f'char_{name}'], batch[f'other_{name}']], axis=1)
    return pairs.reshape(-1, pairs.shape[-1])


def sides(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[2·B, …] as `interleaved` has it → [B, …] of either side, without a slice that would cross devices."""
    pairs = rows.reshape(-1, 2, *rows.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def counts(batch: dict) -> SumsByName:
    """`examples`, real pairs, and `tokens` of both sides: what rates are computed from."""
    ids = batch['char_ids']
    tokens = real_tokens(ids).sum() + real_tokens(batch['other_ids']).sum()
    found = {'examples': (ids[:, 0] != PAD_ID).sum(), 'tokens': tokens}
    return {name: (value.astype(jnp.float32), jnp.ones(())) for name, value in found.items()}
