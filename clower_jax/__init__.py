"""CLOWER in JAX: two encoders, one over characters and one over words, taught by contrast to agree."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clower_jax.inference.encoder import Encoder

__all__ = ['Encoder', '__version__']
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    """`Encoder` when it is asked for: it brings JAX and Orbax along, which take seconds to import."""
    if name == 'Encoder':
        from clower_jax.inference.encoder import Encoder

        return Encoder
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
