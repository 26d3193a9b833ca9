"""Meshes of some of the simulated devices."""

import math

import jax
from jax.sharding import AxisType, Mesh

from clower_jax.parallel import sharding


def mesh_of(*shape: int) -> Mesh:
    """A mesh (data, fsdp, tensor) of the first devices."""
    devices = jax.devices()[: math.prod(shape)]
    return jax.make_mesh(shape, sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
