"""Small workdirs, Hugging Face folders and a real vocabulary for the tests of conversion."""

import contextlib
import json
import logging
import string
import types
from collections.abc import Iterator
from pathlib import Path

import flax.traverse_util
import numpy as np
import safetensors.numpy
import torch
import transformers
from ml_collections import ConfigDict

from clower_jax.checkpoints.digests import FOLDER
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.objectives import registry
from clower_jax.training.run_log import Writer
from helpers import synthetic
from input_pipeline.text.vocabulary import Vocabulary

SPECIAL = ('[PAD]', '[unused1]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
TEXTS = ('今天天气很好。', '我们去公园，打电话用iPhone。', '长江有多长？', '龘字Café\u2028不在Wi-Fi里')
CHARACTERS = sorted(
    set('今天气很好我们去公园长江有多约六千三百里是亚洲第一大河语言模型不喜欢用手机打电话晴在字，。？全')
)
# With U+2028 as a token, as in BERT's Chinese vocabulary, and Latin words that WordPiece would match.
BASE = [*SPECIAL, '\u2028', *CHARACTERS, *string.ascii_lowercase, *(f'##{c}' for c in string.ascii_lowercase)]
WORDS = ['今天', '天气', '公园', 'iphone', 'i', '我们', '长江', '打电话', '亚洲', '手机', 'wi-fi', 'caf']
WORDS.remove('i')  # has a row already
SEGMENTER = {'name': 'jieba', 'version': '0.42.1', 'hmm': True}
LABELS = ['坏', '好', '"neutral"']
TAGS = ['O', 'B-人名', 'I-人名']
MODEL = {
    'hidden_size': 32, 'num_layers': 2, 'num_heads': 4, 'intermediate_size': 64, 'max_positions': 64,
    'dropout': 0.0, 'attention_dropout': 0.1, 'initializer_range': 0.02,
}  # fmt: skip
BERT = {
    'vocab_size': len(BASE), 'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4,
    'intermediate_size': 64, 'max_position_embeddings': 64, 'attn_implementation': 'eager',
}  # fmt: skip


def vocabulary() -> Vocabulary:
    """The base block and the words."""
    return Vocabulary(BASE + WORDS, len(BASE), {'segmenter': SEGMENTER})


def config_of(task: str, **changes) -> ConfigDict:
    """A tiny run of 'pretrain', 'classify', 'span', 'tag' or 'mirror'; changes by dotted key."""
    words = WORDS if task == 'pretrain' else []
    config = synthetic.tiny_config(**{f'model.{name}': value for name, value in MODEL.items()})
    config.task = task
    config.model.vocab_size, config.model.base_vocab_size = len(BASE) + len(words), len(BASE)
    if task != 'pretrain':
        del config['loss']
        config.data = ConfigDict({'max_length': 32, 'labels': LABELS, 'train': '/secret/train.tsv'})
    if task == 'tag':
        config.data.labels = TAGS
    if task == 'mirror':
        config.model.update({'pooling': 'mean', 'projection': False, 'feature_cutoff': 0.0})
        config.data.update({'mask_span': 5, 'shuffle_positions': False})
        config.loss = ConfigDict({'temperature': 0.04, 'within': True})
    config.update_from_flattened_dict(changes)
    return config


def make(workdir: Path, task: str, shift: float = 0, step: int = 3, folder: str = FOLDER, **changes) -> dict:
    """A workdir with random parameters (plus `shift`), which are returned by path."""
    config = config_of(task, **changes)
    network = registry.from_config(config)
    params = synthetic.random_params(network)
    if shift:
        params = {part: _shifted(tree, shift) for part, tree in params.items()}
    writer = Writer(workdir)
    writer.write_config(config, BASE + WORDS if task == 'pretrain' else BASE)
    writer.close()
    with Checkpoints(workdir, keep=2, folder=folder) as checkpoints:
        checkpoints.save_params(step, params)
    return flax.traverse_util.flatten_dict(params, sep='/')


def _shifted(tree, by):
    return {
        name: _shifted(value, by) if isinstance(value, dict) else value + by for name, value in tree.items()
    }


def bert(architecture: type, **changes):
    """A tiny torch BERT whose weights are all random, biases and scales too."""
    torch.manual_seed(0)
    model = architecture(transformers.BertConfig(**{**BERT, **changes}))
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * (0.1 if value.ndim == 1 else 0.2))
    return model.eval()


def saved(model, folder: Path) -> Path:
    """The model as transformers saves it, with the base block as its vocabulary."""
    model.save_pretrained(folder)
    (folder / 'vocab.txt').write_bytes(''.join(f'{token}\n' for token in BASE).encode())
    return folder


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Those of its model.safetensors."""
    return safetensors.numpy.load_file(folder / 'model.safetensors')


def settings(folder: Path) -> dict:
    """Its config.json."""
    return json.loads((folder / 'config.json').read_text(encoding='utf-8'))


@contextlib.contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """Collects what a library logs from WARNING on, whether or not it lets the root logger see it."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def padded_batch(rows: int) -> dict[str, np.ndarray]:
    """int64 [4, 12] ids below `rows`, segments and mask; two rows are padded."""
    ids = np.random.default_rng(0).integers(len(SPECIAL), rows, (4, 12))
    ids[:, 0] = SPECIAL.index('[CLS]')
    ids[1, 7:] = ids[2, 2:] = 0
    real = (ids != 0).astype(np.int64)
    return {'input_ids': ids, 'token_type_ids': real * (np.arange(12) >= 5), 'attention_mask': real}


def torch_outputs(model, batch: dict[str, np.ndarray]):
    """The model's outputs as NumPy arrays, by attribute."""
    with torch.no_grad():
        out = model(**{name: torch.from_numpy(value) for name, value in batch.items()})
    return types.SimpleNamespace(**{name: value.numpy() for name, value in out.items()})
