"""FLOPs of a step, and what the chip could do."""

from collections.abc import Collection

import jax
from ml_collections import ConfigDict

# Dense bf16 FLOP/s of one chip, from the makers' datasheets (without sparsity).
PEAK_FLOPS = {
    'NVIDIA H200': 989e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA A100-SXM4-80GB': 312e12,
    'NVIDIA A100-SXM4-40GB': 312e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5': 459e12,
    'TPU v6 lite': 918e12,
}


def step_flops(
    config: ConfigDict, views: Collection[str] = ('char', 'word'), own_table: bool = False
) -> float:
    """FLOPs of one training step, forward + backward = 3 × forward, padding included.

    Counts the products of the encoders, of the MLM heads at the masked positions, and of the contrast over
    the global batch; recomputation, if any, is not counted. `views`: those that the model reads; `own_table`:
    whether characters have a table of their own.
    """
    model, data = config.model, config.data
    width, vocabulary = model.hidden_size, model.vocab_size
    forward = 0.0
    if config.loss.contrast_on in ('both', 'token'):
        forward += data.max_anchors * 2 * (config.batch_size * data.max_anchors) * width
    for view in views:
        length = data[f'{view}_length']
        base = view == 'char' and (config.loss.mlm_candidates == 'branch' or own_table)
        rows = model.base_vocab_size if base else vocabulary
        forward += encoder_flops(config, length)
        forward += round(data.mask_rate * length) * 2 * (width**2 + width * rows)
    return 3.0 * forward * config.batch_size


def encoder_flops(config: ConfigDict, length: int) -> float:
    """FLOPs of one row's way forward through an encoder."""
    model = config.model
    width = model.hidden_size
    per_token = 2 * (4 * width**2 + 2 * width * model.intermediate_size) + 4 * length * width
    return float(length * model.num_layers * per_token)


def peak_flops() -> float | None:
    """Dense bf16 FLOP/s of all devices together; None where the chip is not in the table."""
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return None if peak is None else peak * jax.device_count()
