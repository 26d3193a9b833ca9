"""What compiling costs, in tokens."""

import pytest

from clower_jax.utils import flops


@pytest.mark.parametrize('training', [False, True])
def test_compiling_costs_more_where_and_when_computing_is_fast(training):
    """A GPU computes some thousand times as fast as a CPU that compiles; a token costs the square of D."""
    cpu, gpu, tpu = (flops.width_price(name, 256, training) for name in ('cpu', 'gpu', 'tpu'))
    assert 500 < gpu / cpu < 10_000 and gpu == tpu
    assert flops.width_price('cpu', 768, training) * 9 == pytest.approx(cpu)
