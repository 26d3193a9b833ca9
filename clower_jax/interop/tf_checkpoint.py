"""Google's TensorFlow checkpoints of BERT, which the paper starts from, under Hugging Face's tensor names."""

import functools
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from clower_jax.interop import hf_bert
from clower_jax.utils.folder_files import reason

log = logging.getLogger(__name__)

# What an optimiser keeps beside each variable, as BERT's own training code and LAMB name it.
_STATES = re.compile(r'(.*/(adam|lamb)_[mv]|global_step|beta[12]_power|.*/Adam(_1)?)')
# Heads, whose names follow no rule; the last two are those of run_classifier.py.
_HEADS = {
    'cls/predictions/output_bias': 'cls.predictions.bias',
    'cls/seq_relationship/output_weights': 'cls.seq_relationship.weight',
    'cls/seq_relationship/output_bias': 'cls.seq_relationship.bias',
    'cls/squad/output_weights': 'qa_outputs.weight',
    'cls/squad/output_bias': 'qa_outputs.bias',
    'output_weights': 'classifier.weight',
    'output_bias': 'classifier.bias',
}
_LEAVES = {'kernel': 'weight', 'gamma': 'weight', 'beta': 'bias'}

T = TypeVar('T')


class Variables(NamedTuple):
    """Of the model's variables alone, by BERT's own names: `stored`, the names in the file, and `shapes`; how
    many others were an optimiser's; the prefix that every name has in the file."""

    stored: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    optimizer_states: int
    prefix: str


def find(source: str | Path) -> Path | None:
    """The prefix of a checkpoint ('…/bert_model.ckpt'), given itself or its folder; None where there is none.

    Raises ValueError where a folder has several.
    """
    path = Path(source)
    path = path.with_suffix('') if path.suffix == '.index' else path
    if Path(f'{path}.index').is_file():
        return path
    prefixes = [index.with_suffix('') for index in sorted(path.glob('*.index'))]
    if len(prefixes) > 1:
        raise ValueError(
            f'{path} has several TensorFlow checkpoints: give one of {", ".join(map(str, prefixes))}'
        )
    return prefixes[0] if prefixes else None


def variables(prefix: Path) -> Variables:
    """What the checkpoint holds. Raises ValueError where it cannot be read."""
    reader = _reader(prefix)
    saved = _read_or_explain(prefix, reader.get_variable_to_shape_map)
    shapes = {name: tuple(shape) for name, shape in saved.items()}
    model = sorted(name for name in shapes if not _STATES.fullmatch(name))
    try:
        wrapper = hf_bert.wrapper_prefix(model, '/', 'embeddings/word_embeddings')
    except ValueError as error:
        raise ValueError(f'{prefix}: {error}') from error
    stored = {name.removeprefix(wrapper): name for name in model}
    named = {name: shapes[stored] for name, stored in stored.items()}
    return Variables(stored, named, len(shapes) - len(model), wrapper)


def head(prefix: Path) -> tuple[str | None, int]:
    """'classify' or 'span' where there is such a head on top, else None; and the number of its labels."""
    shapes = {_HEADS.get(name): shape for name, shape in variables(prefix).shapes.items()}
    for name, task in (('classifier.weight', 'classify'), ('qa_outputs.weight', 'span')):
        if name in shapes:
            if not shapes[name]:
                raise ValueError(f'{prefix}: {name} is a single number, and should be a matrix')
            return task, shapes[name][0]
    return None, 0


def read_tensors(prefix: Path) -> dict[str, np.ndarray]:
    """Every variable of the model as Hugging Face names and orients it, without the prefix 'bert.'.

    Raises ValueError where the checkpoint cannot be read.
    """
    reader, model_variables = _reader(prefix), variables(prefix)
    if model_variables.prefix:
        log.warning('%s: its names begin with %s, which is not read', prefix, model_variables.prefix)
    tensors = {}
    for name, stored in model_variables.stored.items():
        value = _read_or_explain(prefix, functools.partial(reader.get_tensor, stored))
        tensors[hugging_face_name(name)] = value.T if name.endswith('/kernel') else value
    return tensors


def hugging_face_name(name: str) -> str:
    """'bert/encoder/layer_0/attention/self/query/kernel' → 'encoder.layer.0.attention.self.query.weight'."""
    if name in _HEADS:
        return _HEADS[name]
    module, _, leaf = name.removeprefix('bert/').rpartition('/')
    leaf = f'{leaf}.weight' if leaf.endswith('_embeddings') else _LEAVES.get(leaf, leaf)
    return '.'.join(filter(None, (re.sub(r'\blayer_(\d+)', r'layer.\1', module).replace('/', '.'), leaf)))


def _reader(prefix: Path) -> Any:  # its class has no public name
    from input_pipeline.utils.tensorflow import tf  # some seconds, and only where there is such a checkpoint

    return _read_or_explain(prefix, lambda: tf.train.load_checkpoint(str(prefix)))


def _read_or_explain(prefix: Path, read: Callable[[], T]) -> T:
    """`read()`, its errors in plain words."""
    try:
        return read()
    except Exception as error:  # TensorFlow raises IndexError, too, where a file is cut short
        raise ValueError(
            f'{prefix} is no TensorFlow checkpoint that can be read ({reason(error)}). It consists of '
            f'{prefix.name}.index and {prefix.name}.data-00000-of-00001: copy or unpack both again'
        ) from error
