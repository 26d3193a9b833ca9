"""Weights from outside: a Hugging Face BERT folder, or another run's workdir, into a run's parameters."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import flax.traverse_util
import jax
import numpy as np
from safetensors.numpy import load_file

from clower_jax.checkpoint import FOLDER, Checkpoints

NO_COUNTERPART = ('position_ids', 'cls.predictions.decoder.weight', 'cls.predictions.decoder.bias')


class VocabularyLike(Protocol):
    """What is needed of a vocabulary here: its tokens, base rows first, and each new word's base pieces."""

    tokens: Sequence[str]
    base_size: int

    def pieces(self) -> Sequence[tuple[int, ...]]: ...


class Report(NamedTuple):
    """What loading did: parameters left at their random values, and tensors of the source left unused."""

    random: list[str]
    unused: list[str]


def load_initial(params: dict, source: str, vocabulary: VocabularyLike) -> tuple[dict, Report]:
    """Parameters of a new run, taken from `source` (a config's `init_from`) where it has them.

    Args:
      params: freshly initialised parameters, on their devices; gives shapes and shardings.
      source: a run's workdir, or a Hugging Face folder of a BERT whose vocabulary is the base block.

    Raises:
      ValueError: the source is neither, its vocabulary is another one, or a shape does not fit.
    """
    folder = Path(source)
    if (folder / FOLDER).is_dir():
        return _from_workdir(params, folder, vocabulary), Report([], [])
    if (folder / 'config.json').is_file():
        return _from_hugging_face(params, folder, vocabulary)
    raise ValueError(
        f'init_from={source!r}: there is neither a workdir (with {FOLDER}/) nor a Hugging Face folder (with '
        'config.json and model.safetensors) there. To fetch the Chinese BERT that the paper starts from: '
        'hf download google-bert/bert-base-chinese --local-dir bert-base-chinese. '
        "For random weights: --config.init_from=''"
    )


def _from_workdir(params: dict, folder: Path, vocabulary: VocabularyLike) -> dict:
    saved = folder / 'vocab.txt'
    if saved.is_file():
        _check_vocabulary(saved, vocabulary.tokens, f'The run in {folder}')
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    with Checkpoints(folder) as checkpoints:
        if checkpoints.latest_step is None:
            raise ValueError(f'init_from={str(folder)!r} has no complete checkpoint yet')
        return checkpoints.restore_params(abstract)


def _from_hugging_face(params: dict, folder: Path, vocabulary: VocabularyLike) -> tuple[dict, Report]:
    kind = json.loads((folder / 'config.json').read_text(encoding='utf-8')).get('model_type')
    if kind != 'bert':
        raise ValueError(f"{folder}/config.json says model_type={kind!r}: only 'bert' fits these encoders")
    if (folder / 'vocab.txt').is_file():
        _check_vocabulary(folder / 'vocab.txt', vocabulary.tokens[: vocabulary.base_size], str(folder))
    tensors = {bert_name(name): value for name, value in read_tensors(folder).items()}
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    random, used = [], set()
    for path, leaf in flat.items():
        name = hugging_face_name(path)
        if name not in tensors:
            random.append(path)
            continue
        used.add(name)
        value = tensors[name].astype(np.float32)
        if path.endswith('/kernel'):
            value = value.T
        if name in ('embeddings.word_embeddings.weight', 'cls.predictions.bias'):
            value = with_word_rows(value, vocabulary)
        if value.shape != leaf.shape:
            raise ValueError(
                f'{folder}: {name} has the shape {tensors[name].shape}, the model wants {leaf.shape} at '
                f'{path}: set model.* (and the vocabulary) as in {folder}/config.json'
            )
        flat[path] = jax.make_array_from_callback(leaf.shape, leaf.sharding, value.__getitem__)
    unused = sorted(name for name in set(tensors) - used if not name.endswith(NO_COUNTERPART))
    return flax.traverse_util.unflatten_dict(flat, sep='/'), Report(random, unused)


def with_word_rows(base: np.ndarray, vocabulary: VocabularyLike) -> np.ndarray:
    """[base_size, …] → [V, …]: each new word's row is the mean of its pieces' rows (the paper, section 4)."""
    if len(base) != vocabulary.base_size:
        raise ValueError(
            f'the source has {len(base)} token rows, the base block of the vocabulary has '
            f'{vocabulary.base_size}: '
            "build the vocabulary with --base_vocab set to the source's vocab.txt"
        )
    words = [base[list(pieces)].mean(axis=0) for pieces in vocabulary.pieces()]
    return np.concatenate([base, np.stack(words)]) if words else base


def hugging_face_name(path: str) -> str:
    """A parameter's path → its name in a Hugging Face BERT, the same for both encoders.

    'char_encoder/encoder.layer.0/output.dense/kernel' → 'encoder.layer.0.output.dense.weight'.
    """
    part, _, rest = path.partition('/')
    prefix = {
        'embeddings': 'embeddings.',
        'char_encoder': '',
        'word_encoder': '',
        'char_mlm': 'cls.predictions.',
        'word_mlm': 'cls.predictions.',
        # The source's next-sentence head answers another question: SOP heads start at random.
        'char_sop': 'sop.',
        'word_sop': 'sop.',
    }[part]
    module, _, leaf = rest.rpartition('/')
    leaf = 'weight' if leaf in ('kernel', 'embedding', 'scale') else leaf
    return prefix + '.'.join(x for x in (module.replace('/', '.'), leaf) if x)


def bert_name(name: str) -> str:
    """A tensor's name in any vintage of BERT folder → today's, without the 'bert.' prefix."""
    name = name.removeprefix('bert.')
    return name.replace('LayerNorm.gamma', 'LayerNorm.weight').replace('LayerNorm.beta', 'LayerNorm.bias')


def read_tensors(folder: Path) -> Mapping[str, np.ndarray]:
    """Every tensor of a Hugging Face folder: model.safetensors, whole or in shards, or pytorch_model.bin."""
    if (folder / 'model.safetensors').is_file():
        return load_file(folder / 'model.safetensors')
    index = folder / 'model.safetensors.index.json'
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values()))
        return {name: value for shard in shards for name, value in load_file(folder / shard).items()}
    if (folder / 'pytorch_model.bin').is_file():
        return _read_torch(folder / 'pytorch_model.bin')
    raise ValueError(
        f'{folder} has none of model.safetensors, model.safetensors.index.json, pytorch_model.bin'
    )


def _read_torch(path: Path) -> Mapping[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f'{path} can only be read with torch: pip install torch, or use safetensors'
        ) from error
    tensors = torch.load(path, map_location='cpu', weights_only=True)
    return {name: value.float().numpy() for name, value in tensors.items()}


def _check_vocabulary(path: Path, tokens: Sequence[str], owner: str) -> None:
    """Raises ValueError at the first row where the file and the tokens differ."""
    saved = path.read_text(encoding='utf-8').split('\n')
    saved = saved[:-1] if saved and not saved[-1] else saved
    if saved == list(tokens):
        return
    row = next((i for i, (x, y) in enumerate(zip(saved, tokens)) if x != y), min(len(saved), len(tokens)))
    theirs, ours = (x[row] if row < len(x) else 'nothing' for x in (saved, tokens))
    raise ValueError(
        f'{owner} has another vocabulary than the corpus: {path}:{row + 1} is {theirs!r}, the corpus has '
        f'{ours!r} there. From a Hugging Face folder: build the vocabulary with --base_vocab {path}; from a '
        'workdir: build the corpus with the vocabulary of that run.'
    )
