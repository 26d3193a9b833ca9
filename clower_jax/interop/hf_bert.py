"""Hugging Face's BERT folders: their names, their files, and which of them are a BERT like ours."""

import codecs
import logging
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clower_jax.models.bert import LAYER_NORM_EPSILON
from clower_jax.utils.config_keys import KEYS
from clower_jax.utils.folder_files import Entry, check_entries, check_texts, read_bytes, read_json, short
from input_pipeline.utils.problem_types import PROBLEM_TYPES, REGRESSION, SINGLE_LABEL

log = logging.getLogger(__name__)

VOCABULARIES = ('vocab.txt', 'tokenizer.json')  # the first that there is
# Written beside vocab.txt (the base block) where a folder has word rows: every token, and where words begin.
WORD_VOCABULARY = 'word_vocab.txt'
# config.json's key for what only this project knows of a folder that it wrote: `encoder`, 'char' or 'word';
# `sentence_order`, whether the head named after next sentences tells whether two segments were swapped;
# `pooler`, 'zeros' where nothing trained the one that is there.
CLOWER_KEY = 'clower_jax'
POOLER, ZEROS = 'pooler', 'zeros'
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
MAX_LABELS = 100_000
# Of config.json: what is read of it, beside `FIXED`.
ENTRIES = {
    **{hf_name: KEYS[f'model.{name}'].entry(1) for name, (hf_name, _) in SIZES.items()},
    **{hf_name: KEYS[f'model.{name}'].entry() for name, (hf_name, _) in RATES.items()},
    'num_hidden_layers': KEYS['model.num_layers'].entry(),
    'vocab_size': KEYS['model.vocab_size'].entry(1),
    'num_labels': Entry((int,), 1, MAX_LABELS),
    **dict.fromkeys(('model_type', 'problem_type'), Entry((str,))),
    **dict.fromkeys(('id2label', CLOWER_KEY), Entry((dict,))),
    'architectures': Entry((list,)),
    'tie_word_embeddings': Entry((bool,)),
}
# Of tokenizer_config.json: what decides the ids of a text.
TOKENIZER_SETTINGS = {
    **dict.fromkeys(('do_lower_case', 'strip_accents', 'tokenize_chinese_chars'), Entry((bool,))),
    'model_max_length': Entry((float,), 1, math.inf),  # where it is not known, 1e30
    'tokenizer_class': Entry((str,)),
}
ROW = KEYS['model.vocab_size'].entry()  # of the token table
TASKS = {
    'BertForSequenceClassification': 'classify',
    'BertForQuestionAnswering': 'span',
    'BertForTokenClassification': 'tag',
    'BertForMultipleChoice': 'choose',
}
LABELLED = ('classify', 'tag')  # tasks whose head has a label for each of its logits


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
        'tagger': 'classifier.',
        'chooser': 'classifier.',
    }.get(part, f'{part}.')  # a head has its own name
    module, _, leaf = rest.rpartition('/')
    leaf = 'weight' if leaf in ('kernel', 'embedding', 'scale') else leaf
    return prefix + '.'.join(x for x in (module.replace('/', '.'), leaf) if x)


def wrapper_prefix(names: Iterable[str], separator: str, table: str) -> str:
    """What stands before a BERT's own names: 'module.' of 'module.bert.embeddings.word_embeddings.weight'.

    Args:
      names: of all tensors of a file.
      separator: '.' of torch's names, '/' of TensorFlow's.
      table: the name of the token table, with neither 'bert' nor a prefix before it.

    Returns:
      The prefix, with its separator; '' where the names are a BERT's own, or there is no token table.

    Raises ValueError where several prefixes lead to a token table, so nobody can tell which is meant.
    """
    end = re.compile(rf'(|.*{re.escape(separator)}){re.escape(table)}')
    matches = filter(None, map(end.fullmatch, names))
    prefixes = sorted({match[1].removesuffix(f'bert{separator}') for match in matches})
    if len(prefixes) > 1 and '' not in prefixes:
        raise ValueError(
            f'there are {len(prefixes)} encoders, under {", ".join(prefixes)}: save one of them alone'
        )
    return prefixes[0] if prefixes else ''


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
    """Why a classifier's head is none like ours, or ''."""
    kind = config.get('problem_type') or SINGLE_LABEL
    if kind not in PROBLEM_TYPES:
        return f'its problem_type is {reprlib.repr(kind)}, ours is one of {", ".join(PROBLEM_TYPES)}'
    if kind == REGRESSION:
        return '' if len(labels) == 1 else f'it gives {len(labels)} scores, ours one'
    return '' if len(labels) > 1 else f'it has {len(labels)} label, ours several (problem_type {kind})'


def read_config(path: Path) -> dict[str, Any]:
    """A config.json or bert_config.json. Google's own files and folders before 2020 say no `model_type`.

    What it leaves open (null) is not among it. Raises ValueError where it describes no BERT like ours, with
    the reason, or an entry is of another type or size than it should be.
    """
    config = {key: value for key, value in read_json(path).items() if value is not None}
    check_entries(path, config, ENTRIES)
    check_texts(path, 'architectures', config.get('architectures', ()))
    if 'model_type' not in config:
        architecture = (config.get('architectures') or ['Bert'])[0]
        if 'hidden_size' not in config or not architecture.startswith('Bert'):
            raise ValueError(
                f'{path} describes no BERT: it has neither model_type nor hidden_size'
                if 'hidden_size' not in config
                else f'{path} describes no BERT, but a {short(architecture)}'
            )
    check_equal(path, {key: (config.get(key, value), value) for key, value in FIXED.items()})
    width, heads = (config.get(*SIZES[name]) for name in ('hidden_size', 'num_heads'))
    if width % heads:
        raise ValueError(f'{path}: hidden_size {width} is no multiple of num_attention_heads {heads}')
    names = config.get('id2label', {})
    if len(names) > MAX_LABELS or not set(names) <= set(map(str, range(len(names)))):
        raise ValueError(f'{path}: id2label should name the labels 0 to n − 1, at most {MAX_LABELS}')
    check_texts(path, 'id2label', names.values())
    return config


def check_equal(path: Path, settings: Mapping[str, tuple]) -> None:
    """Raises ValueError naming each setting whose two values, the file's and ours, differ."""
    different = [
        f'{key} is {reprlib.repr(value)} there, {expected!r} here'
        for key, (value, expected) in settings.items()
        if value != expected
    ]
    if different:
        raise ValueError(f'{path} describes another encoder than ours: {"; ".join(different)}')


def clower_entry(config: Mapping[str, Any], name: str) -> Any:
    """What a config.json says under `CLOWER_KEY`; None where we did not write it."""
    own = config.get(CLOWER_KEY)
    return own.get(name) if isinstance(own, dict) else None


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """What a folder's tokenizer_config.json says, without what it leaves open (null); {} where there is none.

    Raises ValueError where a setting that decides the ids is of another type than it should be.
    """
    path = folder / 'tokenizer_config.json'
    settings = {k: v for k, v in read_json(path).items() if v is not None} if path.is_file() else {}
    check_entries(path, settings, TOKENIZER_SETTINGS)
    return settings


def is_cased(folder: Path) -> bool:
    """Whether the folder's tokenizer keeps capitals."""
    return tokenizer_settings(folder).get('do_lower_case') is False


def warn_about_tokenizer(folder: Path) -> None:
    """Logs what the folder's tokenizer does and ours does not: it keeps capitals, or was given tokens that
    BERT's own does not make."""
    path = next((folder / name for name in VOCABULARIES if (folder / name).is_file()), None)
    known = set(read_tokens(path)) if path else set()
    if added := [token for token in _added_tokens(folder).values() if token not in known]:
        log.warning(
            '%s: tokens were added to its tokenizer (%s), which are ordinary text here: their rows are kept, '
            'but no text has them', folder, ', '.join(added[:5]) + ', …' * (len(added) > 5),
        )  # fmt: skip
    if is_cased(folder):
        log.warning(
            '%s has do_lower_case false: this model was trained on text with capitals, here text is '
            'lower-cased. Chinese is not affected, Latin words are.', folder / 'tokenizer_config.json',
        )  # fmt: skip


def read_segmenter(folder: Path) -> dict[str, Any] | None:
    """What cut the words of a folder that has word rows; else None."""
    path = (folder / WORD_VOCABULARY).with_suffix('.json')
    if not path.is_file():
        return None
    segmenter = read_json(path).get('segmenter') or {}
    check_entries(path, {'segmenter': segmenter}, {'segmenter': Entry((dict,))})
    check_entries(path, segmenter, {'name': Entry((str,)), 'hmm': Entry((bool,))}, 'segmenter.')
    return segmenter or None


def read_vocabulary(folder: Path, rows: int | None = None) -> tuple[Path, list[str], int]:
    """The file with a folder's tokens, the tokens by id, and how many of them are the base block.

    Tokens that were added to a tokenizer (in tokenizer.json, tokenizer_config.json or added_tokens.json) have
    the rows after its vocabulary's, and belong to the base block; of `rows`, those that the table has.

    Raises ValueError where there is no vocabulary, or an id has no token.
    """
    words = folder / WORD_VOCABULARY
    if words.is_file():
        tokens, sidecar = read_tokens(words), words.with_suffix('.json')
        base_size = entry(sidecar, 'base_size', kind=int)
        check_entries(sidecar, {'base_size': base_size}, {'base_size': Entry((int,), 1, len(tokens))})
        return words, tokens, base_size
    path = next((folder / name for name in VOCABULARIES if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(
            f'{folder} has neither {" nor ".join(VOCABULARIES)}, so nobody can tell which row is which token'
        )
    by_id = _tokens_by_id(path)
    max_id = math.inf if rows is None else rows
    by_id |= {row: x for row, x in _added_tokens(folder).items() if row not in by_id and row < max_id}
    tokens = _tokens_in_order(path, by_id)
    return path, tokens, len(tokens)


def read_tokens(path: Path) -> list[str]:
    """The tokens of a vocab.txt or a tokenizer.json, by id; without those that were added.

    Only a line feed ends a row of a vocab.txt: BERT's Chinese vocabulary has U+2028 as a token.

    Raises ValueError where the file is not in UTF-8, or is the tokenizer of another kind of model.
    """
    return _tokens_in_order(path, _tokens_by_id(path))


def _tokens_by_id(path: Path) -> dict[int, str]:
    if path.suffix == '.json':
        kind = entry(path, 'model').get('type', 'WordPiece')
        if kind != 'WordPiece':
            raise ValueError(f"{path} is a tokenizer of the type {short(str(kind))}; BERT's is WordPiece")
        rows = entry(path, 'model', 'vocab')
        check_texts(path, 'model.vocab', rows)
        for token in rows:
            check_entries(path, rows, {token: ROW}, 'model.vocab.')
        return {row: token for token, row in rows.items()}
    try:
        text = read_bytes(path).removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b'\n', 0, error.start) + 1
        raise ValueError(f'{path}:{line} is not UTF-8 ({error.reason}): save the file as UTF-8') from error
    return dict(enumerate(text.replace('\r\n', '\n').removesuffix('\n').split('\n')))


def _tokens_in_order(path: Path, by_id: Mapping[int, str]) -> list[str]:
    """The tokens in the order of their ids. Raises ValueError where an id has none, or there are none."""
    if not by_id:
        raise ValueError(f'{path} has no tokens: it may be damaged')
    gap = next((row for row in range(len(by_id)) if row not in by_id), None)
    if gap is not None:
        raise ValueError(
            f'{path}: no token has the id {gap}, though there are {len(by_id)} tokens with ids up to '
            f'{max(by_id)}: rows would go to the wrong tokens. Name every row'
        )
    return [by_id[row] for row in range(len(by_id))]


def _added_tokens(folder: Path) -> dict[int, str]:
    """By id what was added to a folder's tokenizer, wherever a version of transformers says so."""
    added: dict[int, str] = {}
    readers: dict[str, Callable[[dict], dict[int, str]]] = {
        'added_tokens.json': lambda x: {int(row): token for token, row in x.items()},
        'tokenizer_config.json': lambda x: {
            int(row): token['content'] for row, token in x.get('added_tokens_decoder', {}).items()
        },
        'tokenizer.json': lambda x: {int(y['id']): y['content'] for y in x.get('added_tokens', ())},
    }
    for name, read in readers.items():
        path = folder / name
        if path.is_file():
            saved = read_json(path)
            try:
                tokens = read(saved)
            except (TypeError, KeyError, AttributeError, ValueError) as error:
                raise ValueError(f'{path} has no added tokens as such a file should') from error
            check_texts(path, 'an added token', tokens.values())
            if not all(map(ROW.allows, tokens)):
                raise ValueError(f'{path} has an added token whose id should be {ROW}')
            added |= tokens
    return added


def labels(config: Mapping[str, Any], number: int) -> list[str]:
    """The names of a classifier's labels in the order of its logits; of `number` ones where the config has
    none."""
    names = config.get('id2label') or {i: f'LABEL_{i}' for i in range(number)}
    return [names[key] for key in sorted(names, key=int)]


def entry(path: Path, *keys: str, kind: type = dict) -> Any:
    """The entry at `keys` of a JSON file. Raises ValueError where there is none of this kind."""
    value: Any = read_json(path)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not Entry((kind,)).allows(value):
        raise ValueError(f'{path} has no {".".join(keys)} as such a file should: it may be damaged')
    return value
