"""Weights from outside: a Hugging Face BERT folder, or another run's workdir, into a run's parameters."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import flax.traverse_util
import jax
import numpy as np
from safetensors.numpy import load_file

from clower_jax.bert import LAYER_NORM_EPSILON
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


def load_initial(
    params: dict, source: str, vocabulary: VocabularyLike, num_heads: int
) -> tuple[dict, Report]:
    """Parameters of a new run, taken from `source` (a config's `init_from`) where it has them.

    Args:
      params: freshly initialised parameters, on their devices; gives shapes and shardings.
      source: a run's workdir, or a Hugging Face folder of a BERT whose vocabulary is the base block.
      num_heads: attention heads of the run's encoders, which no shape tells.

    Raises:
      ValueError: the source is neither, its vocabulary or its kind of encoder is another one, or a shape
        does not fit.
    """
    folder = Path(source)
    if (folder / FOLDER).is_dir():
        return _from_workdir(params, folder, vocabulary, num_heads), Report([], [])
    if (folder / 'config.json').is_file():
        return _from_hugging_face(params, folder, vocabulary, num_heads)
    raise ValueError(
        f'init_from={source!r}: there is neither a workdir (with {FOLDER}/) nor a Hugging Face folder (with '
        'config.json and model.safetensors) there. To fetch the Chinese BERT that the paper starts from: '
        'hf download google-bert/bert-base-chinese --local-dir bert-base-chinese. '
        "For random weights: --config.init_from=''"
    )


def _from_workdir(params: dict, folder: Path, vocabulary: VocabularyLike, num_heads: int) -> dict:
    if not (folder / 'config.json').is_file():
        raise ValueError(f'init_from={str(folder)!r} has no complete checkpoint yet')
    model = json.loads((folder / 'config.json').read_text(encoding='utf-8'))['model']
    _check_same(folder, {'model.num_heads': (model['num_heads'], num_heads)})
    check_vocabulary(folder / 'vocab.txt', vocabulary.tokens, f'The run in {folder}')
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    with Checkpoints(folder, read_only=True) as checkpoints:
        if checkpoints.latest_step is None:
            raise ValueError(f'init_from={str(folder)!r} has no complete checkpoint yet')
        return checkpoints.restore_params(abstract)


def _from_hugging_face(
    params: dict, folder: Path, vocabulary: VocabularyLike, num_heads: int
) -> tuple[dict, Report]:
    theirs = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    _check_same(
        folder,
        {
            'model_type': (theirs.get('model_type'), 'bert'),
            'num_attention_heads': (theirs.get('num_attention_heads', 12), num_heads),
            'hidden_act': (theirs.get('hidden_act', 'gelu'), 'gelu'),
            'layer_norm_eps': (theirs.get('layer_norm_eps', LAYER_NORM_EPSILON), LAYER_NORM_EPSILON),
            'position_embedding_type': (theirs.get('position_embedding_type', 'absolute'), 'absolute'),
        },
    )
    check_vocabulary(_vocabulary_file(folder), vocabulary.tokens[: vocabulary.base_size], str(folder))
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
    """[base_size, …] → [V, …]: each new word's row is the mean of its pieces' rows (the paper)."""
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


def _check_same(folder: Path, settings: dict[str, tuple]) -> None:
    """Raises ValueError naming each setting whose two values, the folder's and ours, differ."""
    wrong = [
        f'{key} is {theirs!r} there, {ours!r} here'
        for key, (theirs, ours) in settings.items()
        if theirs != ours
    ]
    if wrong:
        raise ValueError(
            f"{folder}/config.json describes another encoder than this run's: {'; '.join(wrong)}"
        )


def _vocabulary_file(folder: Path) -> Path:
    for name in ('vocab.txt', 'tokenizer.json'):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f'{folder} has neither vocab.txt nor tokenizer.json, so nobody can tell which row is which token'
    )


def _read_tokens(path: Path) -> list[str]:
    """The tokens of a vocab.txt or a tokenizer.json, by id."""
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.json':
        ids = json.loads(text)['model']['vocab']
        return sorted(ids, key=ids.__getitem__)
    return text.removesuffix('\n').split('\n')


def check_vocabulary(path: Path, tokens: Sequence[str], owner: str) -> None:
    """Raises ValueError at the first row where the file's tokens and these differ."""
    saved = _read_tokens(path)
    if saved == list(tokens):
        return
    row = next((i for i, (x, y) in enumerate(zip(saved, tokens)) if x != y), min(len(saved), len(tokens)))
    theirs, ours = (repr(x[row]) if row < len(x) else 'nothing' for x in (saved, tokens))
    where = f'{path}, id {row},' if path.suffix == '.json' else f'{path}:{row + 1}'
    raise ValueError(
        f'{owner} has another vocabulary than the corpus: {where} is {theirs}, the corpus has {ours} '
        'there. To start from a Hugging Face folder, build the vocabulary with its vocab.txt as '
        '--base_vocab; to start from a run, build the corpus with the vocabulary of that run; to go on with '
        'a run, give it the text or corpus it had.'
    )
