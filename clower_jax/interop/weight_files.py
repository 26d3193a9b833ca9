"""Files of a BERT's weights, of any vintage: safetensors, torch's pickles, shards of either."""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from clower_jax.interop import hf_bert
from clower_jax.utils.folder_files import check_plain, reason

log = logging.getLogger(__name__)

# The first that there is is read; an index names shards.
FILES = (
    *('model.safetensors', 'model.safetensors.index.json'),
    *('pytorch_model.bin', 'pytorch_model.bin.index.json'),
)
TOKEN_TABLE = 'embeddings.word_embeddings.weight'
# The decoder of the MLM head is the token table; older folders write it, and its bias, a second time.
DECODER = 'cls.predictions.decoder.weight'
_TIED = {DECODER: TOKEN_TABLE, 'cls.predictions.decoder.bias': 'cls.predictions.bias'}


def has_weights(folder: Path) -> bool:
    """Whether there is a file of weights that `read_tensors` reads."""
    return any((folder / name).is_file() for name in FILES)


def known_names(folder: Path) -> list[str]:
    """The names of a folder's tensors as `read_tensors` has them, as far as they are known without reading
    the weights: those that an index or the head of a safetensors file has; [] of a pickle.

    Raises ValueError as `read_tensors`.
    """
    path = next(folder / name for name in FILES if (folder / name).is_file())
    if path.suffix == '.json':
        names = list(hf_bert.entry(path, 'weight_map'))
    elif path.suffix == '.safetensors':
        with _safetensors_errors(path), safe_open(path, 'numpy') as opened:
            names = list(opened.keys())
    else:
        return []
    return list(_strip_prefix(folder, names)[1].values())


def read_tensors(folder: Path, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every tensor of a folder under today's name, without 'bert.' and what a wrapper put before it; of what
    was said twice one; NumPy, any float dtype. `config` is the folder's.

    Raises ValueError where there is no file of weights, it is damaged, or only torch reads it and there is
    none.
    """
    tensors_by_file_name = dict(_read_files(folder))
    prefix, own_names = _strip_prefix(folder, tensors_by_file_name)
    tensors = {own_names[name]: value for name, value in tensors_by_file_name.items()}
    if prefix:
        log.warning('%s: its names begin with %s, which is not read', folder, prefix)
    for name, tied_to in _TIED.items():
        if name in tensors and (tied_to not in tensors or np.array_equal(tensors[name], tensors[tied_to])):
            tensors.setdefault(tied_to, tensors.pop(name))
    if hf_bert.clower_entry(config, 'sentence_order'):
        order, swapped = hf_bert.NEXT_SENTENCE, hf_bert.SENTENCE_ORDER
        tensors = {name.replace(order, swapped): value for name, value in tensors.items()}
    return {name: value for name, value in tensors.items() if not name.endswith('position_ids')}


def _strip_prefix(folder: Path, names: Collection[str]) -> tuple[str, dict[str, str]]:
    """What a wrapper put before all names, and each name → today's, without that."""
    try:
        prefix = hf_bert.wrapper_prefix(map(modern_name, names), '.', TOKEN_TABLE)
    except ValueError as error:
        raise ValueError(f'{folder}: {error}') from error
    return prefix, {name: modern_name(name.removeprefix(prefix)) for name in names}


def modern_name(name: str) -> str:
    """A tensor's name in any vintage of BERT folder → today's, without the prefix 'bert.'."""
    name = name.removeprefix('bert.')
    return name.replace('LayerNorm.gamma', 'LayerNorm.weight').replace('LayerNorm.beta', 'LayerNorm.bias')


def _read_files(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f'{folder} has none of {", ".join(FILES)}')
    names = {path.name}
    if path.suffix == '.json':
        weight_map = hf_bert.entry(path, 'weight_map')
        for name in weight_map.values():
            check_plain(path, 'weight_map', name)
        names = set(weight_map.values())
    for name in sorted(names):
        if not (folder / name).is_file():
            raise ValueError(f'{folder / name} is missing: copy every shard that {path.name} names')
        read = _read_safetensors if name.endswith('.safetensors') else _read_torch
        yield from read(folder / name).items()


def _read_safetensors(path: Path) -> Mapping[str, np.ndarray]:
    with _safetensors_errors(path):
        return load_file(path)


@contextlib.contextmanager
def _safetensors_errors(path: Path) -> Iterator[None]:
    """What goes wrong in reading such a file, in plain words."""
    try:
        yield
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # a dtype that NumPy has not, too
        size = path.stat().st_size
        hint = 'a Git LFS pointer, not the file itself' if size < 1000 else 'cut short or damaged'
        raise ValueError(
            f'{path} ({size} bytes) cannot be read ({reason(error)}); it may be {hint}'
        ) from error


def _read_torch(path: Path) -> Mapping[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f'{path} can only be read with torch: pip install torch, or use safetensors'
        ) from error
    try:
        saved = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a pickle can fail in any way
        raise ValueError(
            f'{path} cannot be read ({reason(error)}). It is damaged, or holds more than tensors; convert it '
            'to safetensors'
        ) from error
    state_dicts = _state_dicts(saved, '')
    if len(state_dicts) != 1:
        problem = (
            f'state dicts of several BERTs ({", ".join(state_dicts)})' if state_dicts else 'no state dict'
        )
        raise ValueError(
            f'{path} holds {problem}. Save model.state_dict() alone, as safetensors or with torch.save'
        )
    (tensors,) = state_dicts.values()
    return {name: value.detach().float().numpy() for name, value in tensors.items()}


def _state_dicts(saved: Any, key: str) -> dict[str, dict[str, Any]]:
    """What may be meant, by key: the tensors of a mapping itself; of a training program's checkpoint, those
    of its entries in which a BERT is."""
    if not isinstance(saved, Mapping):
        return {}
    tensors = {str(name): value for name, value in saved.items() if hasattr(value, 'detach')}
    if any(name.endswith(TOKEN_TABLE) for name in tensors):
        return {key: tensors}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in saved.items():
        nested |= _state_dicts(value, f'{key}.{name}'.removeprefix('.'))
    return nested or ({key: tensors} if tensors and not key else {})
