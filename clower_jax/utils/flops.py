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

# FLOPs that are done in the time that compiling a layer takes: of a way forward alone, of a training step
# with its evaluation (docs/log.md); by platform, for any other `DEFAULT_COMPILING`.
COMPILING = {'cpu': (2e10, 2e11)}
DEFAULT_COMPILING = (1e14, 2e14)
RUNS = 5  # trainings that find in the cache what the first one has compiled: the paper's are of five seeds


def width_price(platform: str, hidden_size: int, training: bool = False) -> float:
    """What it costs to compile an encoder for rows of one width more, in tokens that are computed meanwhile.

    A token costs 24·D² FLOPs a layer, D being `hidden_size`, and thrice that in training, which shares the
    price among `RUNS`.
    """
    forward, both = COMPILING.get(platform, DEFAULT_COMPILING)
    return both / RUNS / (72 * hidden_size**2) if training else forward / (24 * hidden_size**2)


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
