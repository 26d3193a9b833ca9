"""Devices that are not there: what XLA compiles for on a machine that has only CPUs.

Start Python with the environment of `ENVIRONMENT`. NVIDIA GPUs want `pip install 'jax[cuda13]'`, TPUs
`pip install 'jax[tpu]'`. `jax.default_backend()` is 'cpu' all the while.
"""

from typing import Any, NamedTuple

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from clower_jax.parallel import sharding

ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_gpu_autotune_level=0',  # there is nothing to try kernels on
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}


class Chip(NamedTuple):
    """One kind of device, and what it can do: bf16 FLOP/s that large products reach, bytes/s of its main
    memory, and bytes of that."""

    platform: str
    flops: float
    bandwidth: float
    memory: int


# What XLA wants to know of an H100 SXM, in its own words (stream_executor's DeviceDescription).
_H100 = {
    'cuda_compute_capability': {'major': 9},
    **{'threads_per_block_limit': 1024, 'threads_per_warp': 32, 'threads_per_core_limit': 2048},
    **{'shared_memory_per_block': 49152, 'shared_memory_per_core': 233472},
    **{'shared_memory_per_block_optin': 232448, 'core_count': 132, 'fpus_per_core': 128},
    **{'block_dim_limit_x': 2**31 - 1, 'block_dim_limit_y': 65535, 'block_dim_limit_z': 65535},
    **{'memory_bandwidth': 3_352_320_000_000, 'l2_cache_size': 52_428_800, 'clock_rate_ghz': 1.98},
    **{'device_memory_size': 84_929_347_584},
    **{'registers_per_core_limit': 65536, 'registers_per_block_limit': 65536},
}
# H100, H200: what large products and copies reach, measured by others; TPUs: the makers' peaks, of which
# programs reach less.
CHIPS = {
    'h100': Chip('cuda', 790e12, 3.0e12, _H100['device_memory_size']),
    'h200': Chip('cuda', 790e12, 4.3e12, 143_771 * 2**20),
    'v5e': Chip('tpu', 197e12, 0.819e12, 16 * 2**30),
    'v5p': Chip('tpu', 459e12, 2.765e12, 95 * 2**30),
    'v6e': Chip('tpu', 918e12, 1.64e12, 32 * 2**30),
}


def _textproto(fields: dict) -> str:
    return ' '.join(
        f'{key} {{ {_textproto(value)} }}' if isinstance(value, dict) else f'{key}: {value}'
        for key, value in fields.items()
    )


def devices(name: str) -> list[Any]:
    """The devices of 'h100', 'h100:8' or a TPU slice such as 'v5e:4x4'. An H200 has an H100's processor, and
    the compiler gets that one's memory.

    Raises ValueError where there is no such chip, and whatever JAX raises where its plugin is not installed.
    """
    chip, _, shape = name.partition(':')
    if chip not in CHIPS:
        raise ValueError(f'there is no chip {chip!r}; there are {", ".join(CHIPS)}')
    if CHIPS[chip].platform == 'tpu':
        topology = topologies.get_topology_desc(platform='tpu', topology_name=f'{chip}:{shape or "2x2"}')
        return list(topology.devices)
    target = f'gpu_device_info {{ {_textproto(_H100)} }} platform_name: "CUDA" '
    target += 'dnn_version_info { major: 9 minor: 10 } device_description_str: "NVIDIA H100 80GB HBM3"'
    topology = f'1x1x{shape or 1}'
    return list(
        topologies.get_topology_desc(platform='cuda', topology=topology, target_config=target).devices
    )


def mesh(name: str) -> Mesh:
    """All devices along `data`."""
    all_devices = devices(name)
    shape = (len(all_devices),) + (1,) * (len(sharding.AXES) - 1)
    return Mesh(np.array(all_devices).reshape(shape), sharding.AXES, axis_types=(AxisType.Auto,) * len(shape))
