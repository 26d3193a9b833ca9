"""Hugging Face's BERT folders: their names, their files, and which of them are a BERT like ours."""

import codecs
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from clower_jax.bert import LAYER_NORM_EPSILON

log = logging.getLogger(__name__)

# Written beside vocab.txt (the base block) where a folder has word rows: every token, and where words begin.
WORD_VOCABULARY = 'word_vocab.txt'
# config.json's key for what only this project knows of a folder that it wrote: `encoder`, 'char' or 'word';
# `sentence_order`, whether the head named after next sentences tells whether two segments were swapped.
OWN_KEY = 'clower_jax'
NEXT_SENTENCE, SENTENCE_ORDER = 'cls.seq_relationship', 'sop.seq_relationship'
SIZES = {
    # ours: (Hugging Face's, BertConfig's default)
    'hidden_size': ('hidden_size', 768),
    'num_layers': ('num_hidden_layers', 12),
    'num_heads': ('num_attention_heads', 12),
    'intermediate_size': ('intermediate_size', 3072),
    'max_positions': ('max_position_embeddings', 512),
}
RATES = {
    'dropout': ('hidden_dropout_prob', 0.1),
    'attention_dropout': ('attention_probs_dropout_prob', 0.1),
    'initializer_range': ('initializer_range', 0.02),
}
# What decides the function that the shapes do not show, and its only value here.
FIXED = {
    'model_type': 'bert',
    'hidden_act': 'gelu',
    'layer_norm_eps': LAYER_NORM_EPSILON,
    'position_embedding_type': 'absolute',
    'type_vocab_size': 2,
    'is_decoder': False,
}
# Of tokenizer_config.json: what decides the ids of a text.
TOKENIZER_SETTINGS = {
    'do_lower_case': (bool,),
    'strip_accents': (bool,),
    'tokenize_chinese_chars': (bool,),
    'model_max_length': (int, float),  # where it is not known, 1e30
    'tokenizer_class': (str,),
}
TASKS = {'BertForSequenceClassification': 'classify', 'BertForQuestionAnswering': 'span'}
_WEIGHTS = ('model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin')
# The decoder of the MLM head is the token table; older folders write it, and its bias, a second time.
DECODER = 'cls.predictions.decoder.weight'
_TIED = {
    DECODER: 'embeddings.word_embeddings.weight',
    'cls.predictions.decoder.bias': 'cls.predictions.bias',
}


def tensor_name(path: str) -> str:
    """A parameter's path → its name in a Hugging Face BERT, the same for both encoders and for both of
    AMBERT's embedding layers, without 'bert.'.

    'char_encoder/encoder.layer.0/output.dense/kernel' → 'encoder.layer.0.output.dense.weight'.
    """
    part, _, rest = path.partition('/')
    prefix = {
        'embeddings': 'embeddings.',
        'coarse_embeddings': 'embeddings.',
        'char_encoder': '',
        'word_encoder': '',
        'char_mlm': 'cls.predictions.',
        'word_mlm': 'cls.predictions.',
        # Not 'cls.': a next-sentence head, which has that name, answers another question than ours.
        'char_sop': 'sop.',
        'word_sop': 'sop.',
        'fusion': 'fusion.',
        'projection': 'projection.',
        'classifier': 'classifier.',
        'qa_outputs': 'qa_outputs.',
    }[part]
    module, _, leaf = rest.rpartition('/')
    leaf = 'weight' if leaf in ('kernel', 'embedding', 'scale') else leaf
    return prefix + '.'.join(x for x in (module.replace('/', '.'), leaf) if x)


def modern_name(name: str) -> str:
    """A tensor's name in any vintage of BERT folder → today's, without the prefix 'bert.'."""
    name = name.removeprefix('bert.')
    return name.replace('LayerNorm.gamma', 'LayerNorm.weight').replace('LayerNorm.beta', 'LayerNorm.bias')


def check_rows(config: Path, rows: int, vocabulary: Path, tokens: int) -> None:
    """Raises ValueError where the table of a folder's config has not a row for each of its tokens."""
    if rows != tokens:
        raise ValueError(
            f'{config} says that the token table has {rows} rows (vocab_size), and {vocabulary} has {tokens} '
            'tokens. '
            + (
                f'If the table was padded, append {rows - tokens} tokens that no text has, [pad1], [pad2], …'
                if rows > tokens
                else 'They are not of one model'
            )
        )


def other_classifier(config: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Why a classifier does not choose one of several labels, or ''."""
    kind = config.get('problem_type') or 'single_label_classification'
    if kind != 'single_label_classification':
        return f'its problem_type is {kind!r}, ours chooses one of several labels'
    return '' if len(labels) > 1 else f'it has {len(labels)} label, ours chooses one of several'


def has_weights(folder: Path) -> bool:
    """Whether there is a file of weights that `read_tensors` reads."""
    return any((folder / name).is_file() for name in _WEIGHTS)


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder under today's name, of what was said twice one; NumPy, any float dtype.

    Raises ValueError where there is no file of weights, it is damaged, or only torch reads it and there is
    none.
    """
    tensors = {modern_name(name): value for name, value in _read_files(folder).items()}
    for name, same in _TIED.items():
        if name in tensors and (same not in tensors or np.array_equal(tensors[name], tensors[same])):
            tensors.setdefault(same, tensors.pop(name))
    if own_entry(_read_json(folder / 'config.json'), 'sentence_order'):
        tensors = {name.replace(NEXT_SENTENCE, SENTENCE_ORDER): value for name, value in tensors.items()}
    return {name: value for name, value in tensors.items() if not name.endswith('position_ids')}


def _read_files(folder: Path) -> Mapping[str, np.ndarray]:
    single, index, pickled = (folder / name for name in _WEIGHTS)
    if single.is_file():
        return _read_safetensors(single)
    if index.is_file():
        shards = sorted(set(_entry(index, 'weight_map').values()))
        return {name: value for shard in shards for name, value in _read_safetensors(folder / shard).items()}
    if pickled.is_file():
        return _read_torch(pickled)
    pickles = folder / 'pytorch_model.bin.index.json'
    if pickles.is_file():
        raise ValueError(
            f'{pickles} names shards in a form that is not read here. Convert them, with the class of '
            "transformers that config.json names under 'architectures': "
            f"CLASS.from_pretrained('{folder}').save_pretrained(FOLDER); then copy vocab.txt there"
        )
    raise ValueError(f'{folder} has none of {", ".join(_WEIGHTS)}')


def _read_safetensors(path: Path) -> Mapping[str, np.ndarray]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ValueError(
            f'{path} is missing: copy every shard that model.safetensors.index.json names'
        ) from error
    except SafetensorError as error:
        size = path.stat().st_size
        hint = 'a Git LFS pointer, not the file itself' if size < 1000 else 'cut short or damaged'
        raise ValueError(f'{path} ({size} bytes) cannot be read ({error}); it may be {hint}') from error


def _read_torch(path: Path) -> Mapping[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f'{path} can only be read with torch: pip install torch, or use safetensors'
        ) from error
    try:
        tensors = torch.load(path, map_location='cpu', weights_only=True)
        return {str(name): value.detach().float().numpy() for name, value in tensors.items()}
    except Exception as error:  # a pickle can fail in any way
        reason = str(error).strip().partition('\n')[0]
        raise ValueError(
            f'{path} cannot be read ({reason}). It is damaged, or holds more than tensors; convert it to '
            'safetensors'
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """A config.json or bert_config.json. Google's own files lack `model_type`, others may not.

    Raises ValueError where it describes no BERT like ours, with the reason.
    """
    config = _read_json(path)
    defaults = FIXED | {'model_type': 'bert' if path.name == 'bert_config.json' else None}
    check_same(path, {key: (config.get(key, defaults[key]), value) for key, value in FIXED.items()})
    return config


def check_same(path: Path, settings: Mapping[str, tuple]) -> None:
    """Raises ValueError naming each setting whose two values, the file's and ours, differ."""
    wrong = [
        f'{key} is {theirs!r} there, {ours!r} here'
        for key, (theirs, ours) in settings.items()
        if theirs != ours
    ]
    if wrong:
        raise ValueError(f'{path} describes another encoder than ours: {"; ".join(wrong)}')


def own_entry(config: Mapping[str, Any], name: str) -> Any:
    """What a config.json says under `OWN_KEY`; None where we did not write it."""
    own = config.get(OWN_KEY)
    return own.get(name) if isinstance(own, dict) else None


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """What a folder's tokenizer_config.json says, without what it leaves open (null); {} where there is none.

    Raises ValueError where a setting that decides the ids is of another type than it should be.
    """
    path = folder / 'tokenizer_config.json'
    settings = {k: v for k, v in _read_json(path).items() if v is not None} if path.is_file() else {}
    for name, kinds in TOKENIZER_SETTINGS.items():
        if name in settings and not isinstance(settings[name], kinds):
            wanted = kinds[0].__name__
            raise ValueError(f'{path}: {name} is {settings[name]!r}, and should be of the type {wanted}')
    return settings


def is_cased(folder: Path) -> bool:
    """Whether the folder's tokenizer keeps capitals."""
    return tokenizer_settings(folder).get('do_lower_case') is False


def warn_if_cased(folder: Path) -> None:
    """Logs that the folder's tokenizer keeps capitals, which ours does not."""
    if is_cased(folder):
        log.warning(
            '%s has do_lower_case false: this model was trained on text with capitals, here text is '
            'lower-cased. Chinese is not affected, Latin words are.', folder / 'tokenizer_config.json',
        )  # fmt: skip


def read_segmenter(folder: Path) -> dict[str, Any] | None:
    """What cut the words of a folder that has word rows; else None."""
    path = (folder / WORD_VOCABULARY).with_suffix('.json')
    return _read_json(path).get('segmenter') if path.is_file() else None


def read_vocabulary(folder: Path) -> tuple[Path, list[str], int]:
    """The file with a folder's tokens, the tokens by id, and how many of them are the base block.

    Raises ValueError where there is no vocabulary.
    """
    words = folder / WORD_VOCABULARY
    if words.is_file():
        return words, read_tokens(words), int(_entry(words.with_suffix('.json'), 'base_size', kind=int))
    for name in ('vocab.txt', 'tokenizer.json'):
        if (folder / name).is_file():
            tokens = read_tokens(folder / name)
            return folder / name, tokens, len(tokens)
    raise ValueError(
        f'{folder} has neither vocab.txt nor tokenizer.json, so nobody can tell which row is which token'
    )


def read_tokens(path: Path) -> list[str]:
    """The tokens of a vocab.txt or a tokenizer.json, by id.

    Only a line feed ends a row of a vocab.txt: BERT's Chinese vocabulary has U+2028 as a token.

    Raises ValueError where the file is not in UTF-8, or is the tokenizer of another kind of model.
    """
    if path.suffix == '.json':
        kind = _entry(path, 'model').get('type', 'WordPiece')
        if kind != 'WordPiece':
            raise ValueError(f"{path} is a tokenizer of the type {kind}; BERT's is WordPiece")
        ids = _entry(path, 'model', 'vocab')
        return sorted(ids, key=ids.__getitem__)
    try:
        text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b'\n', 0, error.start) + 1
        raise ValueError(f'{path}:{line} is not UTF-8 ({error.reason}): save the file as UTF-8') from error
    return text.replace('\r\n', '\n').removesuffix('\n').split('\n')


def labels(config: Mapping[str, Any], number: int) -> list[str]:
    """The names of a classifier's labels in the order of its logits; of `number` ones where the config has
    none."""
    names = config.get('id2label') or {i: f'LABEL_{i}' for i in range(number)}
    return [names[key] for key in sorted(names, key=int)]


def _entry(path: Path, *keys: str, kind: type = dict) -> Any:
    """The entry at `keys` of a JSON file. Raises ValueError where there is none of this kind."""
    value: Any = _read_json(path)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f'{path} has no {".".join(keys)} as such a file should: it may be damaged')
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise ValueError(f'{path} is missing') from error
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}): it may have been cut short') from error
    if not isinstance(value, dict):
        raise ValueError(f'{path} is no JSON object: it may belong to something else')
    return value
