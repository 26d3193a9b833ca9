"""Targets for fuzzing: a folder of a BERT, tiny and whole, in which one file is what is tried.

`TARGETS` maps a name to a function bytes → None, which passes where the file is read, or refused as it
should be: by a ValueError or an OSError of one line. `SEEDS` has the file as it should be, `mutate` makes
another one of it.
"""

import functools
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from clower_jax import Encoder
from clower_jax.export import bert_folder
from clower_jax.interop import hf_bert, init_weights, sentence_folder, weight_sources, wordpiece
from clower_jax.models.bert import EncoderConfig
from clower_jax.models.finetuned import SentenceEncoder
from fuzz.engine import Target

AGREED = (ValueError, OSError)
LONGEST = 2000  # characters of a message
TOKENS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'今天气很好abc', '##a', '##b']
SIZES = {'hidden_size': 8, 'num_layers': 1, 'num_heads': 2, 'intermediate_size': 8, 'max_positions': 8}
RATES = {'dropout': 0.1, 'attention_dropout': 0.1, 'initializer_range': 0.02}
SHARD = 'model-00001-of-00001.safetensors'
JSON = {
    'config': 'config.json',
    'index': 'model.safetensors.index.json',
    'tokenizer': 'tokenizer.json',
    'tokenizer_config': 'tokenizer_config.json',
    'modules': 'modules.json',
    'pooling': '1_Pooling/config.json',
    'transformer': 'sentence_bert_config.json',
}
FILES = JSON | {
    'vocabulary': 'vocab.txt',
    'safetensors': SHARD,
    'tensorflow_config': 'bert_config.json',
    'tensorflow_index': 'bert_model.ckpt.index',
    'tensorflow_data': 'bert_model.ckpt.data-00000-of-00001',
    'run_config': 'config.json',
}
# What a JSON value becomes: of every type, of no reasonable size, names that lead elsewhere.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 10**7, 10**9, 2**63, 10**40, 0.5, -0.0, 1e400, float('nan')),
    *('', '0', 'x', '9' * 5000, '../x', '/etc/passwd', 'a/b', '\0', '\ud800', '[UNK]', '\n'),
    *([], {}, [[]], {'a': {}}, [1, 'a', None]),
)


def tensors() -> dict[str, np.ndarray]:
    """The weights of the encoder, by Hugging Face's names."""
    model = SentenceEncoder(
        config=EncoderConfig.from_config(SIZES | RATES), vocab_size=len(TOKENS),
        max_positions=SIZES['max_positions'],
        dtype=jnp.float32, pooling='mean', view='char',
    )  # fmt: skip
    ids = jnp.zeros((1, 3), jnp.int32)
    shapes = jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(model.init, jax.random.key(0), ids, ids)['params']
    )
    rng = np.random.default_rng(0)
    found = {}
    for path, leaf in shapes:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        shape = leaf.shape[::-1] if name.endswith('/kernel') else leaf.shape
        found[hf_bert.tensor_name(name)] = rng.normal(size=shape).astype(np.float32)
    return found


def write_hugging_face(folder: Path) -> None:
    """A folder of sentence-transformers with one shard and its index."""
    config = bert_folder.bert_config(SIZES | RATES, 'BertModel', len(TOKENS), ['a', 'b'])
    (folder / 'config.json').write_text(json.dumps(config))
    bert_folder.write_tokenizer(folder, TOKENS, SIZES['max_positions'])
    weights = tensors()
    safetensors.numpy.save_file(weights, folder / SHARD)
    index = {'metadata': {}, 'weight_map': dict.fromkeys(weights, SHARD)}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    sentence_folder.write(folder, 'mean', SIZES['hidden_size'], SIZES['max_positions'])


def write_tensorflow(folder: Path) -> None:
    """Google's archive, unpacked."""
    from input_pipeline.utils.tensorflow import tf

    variables = {}
    for name, value in tensors().items():
        name = name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')
        name = name.replace('embeddings.weight', 'embeddings').replace('.weight', '.kernel')
        name = 'bert/' + name.replace('layer.', 'layer_').replace('.', '/')
        variables[name] = value.T if name.endswith('kernel') else value
    tf.raw_ops.SaveV2(
        prefix=str(folder / 'bert_model.ckpt'), tensor_names=list(variables),
        shape_and_slices=[''] * len(variables), tensors=list(map(tf.constant, variables.values())),
    )  # fmt: skip
    config = bert_folder.bert_config(SIZES | RATES, 'BertModel', len(TOKENS), None)
    (folder / 'bert_config.json').write_text(json.dumps(config))
    (folder / 'vocab.txt').write_text(''.join(f'{token}\n' for token in TOKENS), encoding='utf-8')


def write_run(folder: Path) -> None:
    """What a run says of itself. Its checkpoint is empty, so that it is never whole."""
    model = SIZES | RATES | {'vocab_size': len(TOKENS), 'base_vocab_size': len(TOKENS), 'kind': 'bert'}
    data = {'max_length': 8, 'labels': ['a', 'b'], 'segmenter': 'jieba', 'hmm': True}
    config = {'task': 'classify', 'model': model, 'data': data, 'init_from': ''}
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / 'vocab.txt').write_text(''.join(f'{token}\n' for token in TOKENS), encoding='utf-8')
    (folder / 'checkpoints').mkdir()


@functools.cache
def _folder(kind: str) -> Path:
    """A folder of a kind, made once in a process."""
    folder = Path(tempfile.mkdtemp(prefix=f'fuzz-{kind}-'))
    {'tensorflow': write_tensorflow, 'run': write_run}.get(kind, write_hugging_face)(folder)
    return folder


def _path(name: str) -> Path:
    """The file of a target, in a folder of its own."""
    return _folder(name.partition('_')[0] if name.startswith(('tensorflow', 'run')) else name) / FILES[name]


def folder_of(name: str) -> Path:
    """The folder that is read for a target."""
    return _path(name).parents[FILES[name].count('/')]


@functools.cache
def seed(name: str) -> bytes:
    """The file of a target as it should be."""
    path = _path(name)
    if name in ('vocabulary', 'tokenizer'):  # each of them is read where the other is missing
        (path.parent / FILES['tokenizer' if name == 'vocabulary' else 'vocabulary']).unlink()
    return path.read_bytes()


def read(folder: Path) -> None:
    """All that `convert import` and `Encoder` do with a folder until something would be computed. What costs
    most comes last, and only for what was not refused before."""
    recipe = sentence_folder.read(folder)
    info = weight_sources.source_info(recipe.transformer)
    tokens = info.tokens[: info.base_size]
    wordpiece.load_tokenizer(recipe.transformer, tokens, recipe.lowercase).encode('今天天气 abc')
    init_weights.load_token_rows(recipe.transformer)
    Encoder.load(folder)


def _try(name: str, data: bytes) -> None:
    original, path = seed(name), _path(name)
    path.write_bytes(data)
    try:
        read(folder_of(name))
    except AGREED as error:
        message = str(error)
        if '\n' in message or len(message) > LONGEST or not message:
            raise AssertionError(f'{name}: no message of one line: {message[:LONGEST]!r}') from error
    finally:
        path.write_bytes(original)


TARGETS: dict[str, Callable[[bytes], None]] = {name: functools.partial(_try, name) for name in FILES}
SEEDS: dict[str, Callable[[], bytes]] = {name: functools.partial(seed, name) for name in FILES}


def targets() -> dict[str, Target]:
    """Those of `make fuzz`. A folder is read from the disk, whole, for every input, hence so few of them."""
    rng = random.Random(0)
    return {
        f'folder_{name}': Target(
            TARGETS[name], (whole := SEEDS[name](), *(mutate(whole, rng) for _ in range(20))), share=0.01
        )
        for name in FILES
    }


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Another file: where it is JSON, or begins with JSON as safetensors do, mostly with one to three values
    changed, removed or moved; else with bytes flipped, cut, repeated or put in."""
    head = int.from_bytes(data[:8], 'little')
    if 0 < head < len(data) and data[8:9] == b'{':
        changed = _mutate_json(data[8 : 8 + head], rng) if rng.random() < 0.7 else None
        if changed is not None:
            return len(changed).to_bytes(8, 'little') + changed + data[8 + head :]
    elif rng.random() < 0.8 and (changed := _mutate_json(data, rng)) is not None:
        return changed
    return _mutate_bytes(data, rng)


def _mutate_json(data: bytes, rng: random.Random) -> bytes | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return json.dumps(rng.choice(VALUES)).encode()
        parent, key = rng.choice(places)
        action = rng.random()
        if action < 0.15:
            del parent[key]
        elif action < 0.3 and isinstance(parent, dict):
            parent[str(rng.choice(VALUES))] = parent.pop(key)
        elif action < 0.45:
            other, there = rng.choice(places)
            parent[key] = json.loads(json.dumps(other[there]))
        elif isinstance(parent[key], int | float) and action < 0.7:
            parent[key] = parent[key] * rng.choice((-1, 0, 2, 10**6)) + rng.choice((-1, 0, 1))
        else:
            parent[key] = rng.choice(VALUES)
    return json.dumps(value).encode()


def _places(value: Any):
    """(container, key) of everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield value, key
        yield from _places(below)


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(made) + 1), rng.choice((1, 2, 8, 64))
        action = rng.randrange(5)
        if action == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            del made[at:]
        elif action == 2:
            del made[at : at + length]
        elif action == 3:
            made[at:at] = made[at : at + length]
        else:
            made[at : at + length] = rng.randbytes(length)
    return bytes(made)
