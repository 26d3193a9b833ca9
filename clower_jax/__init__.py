"""CLOWER in JAX: two encoders, one over characters and one over words, taught by contrast to agree."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clower_jax.api import Predictor, evaluate, finetune, predict, pretrain
    from clower_jax.inference.encoder import Encoder

__all__ = ['Encoder', 'Predictor', '__version__', 'evaluate', 'finetune', 'predict', 'pretrain']
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    """What `__all__` lists, when it is asked for: it brings JAX and more along, which takes seconds."""
    if name == 'Encoder':
        from clower_jax.inference.encoder import Encoder

        return Encoder
    if name in __all__:
        from clower_jax import api

        return getattr(api, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
