"""Folders of sentence-transformers: what their modules do to a text, as far as ours does it; writing one.

Such a folder holds a BERT, `modules.json`, which names the modules that a text goes through, and a config for
each: https://sbert.net/docs/package_reference/sentence_transformer/models.html.
"""

import json
import math
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from clower_jax.utils.folder_files import Entry, check_entries, check_plain, check_texts, read_json, short

MODULES = 'modules.json'
TRANSFORMER = 'sentence_bert_config.json'
POOLING = '1_Pooling'
# All that `write` writes.
FILES = (MODULES, TRANSFORMER, POOLING, f'{POOLING}/config.json')
# Keys of a pooling's config, in the order in which their vectors would be joined → what newer ones call it.
MODES = {
    'pooling_mode_cls_token': 'cls',
    'pooling_mode_max_tokens': 'max',
    'pooling_mode_mean_tokens': 'mean',
    'pooling_mode_mean_sqrt_len_tokens': 'mean_sqrt_len_tokens',
    'pooling_mode_weightedmean_tokens': 'weightedmean',
    'pooling_mode_lasttoken': 'lasttoken',
}
SUPPORTED_POOLINGS = ('mean', 'cls')
# What is read of the three files.
ENTRIES = {
    'max_seq_length': Entry((int,), 1, math.inf),
    **dict.fromkeys(('transformer_task', 'default_prompt_name'), Entry((str,))),
    **dict.fromkeys(('do_lower_case', 'include_prompt', *MODES), Entry((bool,))),
    'pooling_mode': Entry((str, list)),
    'prompts': Entry((dict,)),
}


class SentenceFolder(NamedTuple):
    """How a folder makes vectors of texts.

    transformer: the folder of the BERT, which may be the folder itself. pooling: 'mean', 'cls', or '' where
    it is not said. normalize: whether vectors have the length 1. max_length: tokens of a text; None: it is
    not said. lowercase: whether texts are lower-cased whatever the tokenizer does. prompt: stands before
    every text.
    """

    transformer: Path
    pooling: str = ''
    normalize: bool = False
    max_length: int | None = None
    lowercase: bool = False
    prompt: str = ''


def read(folder: Path, pooling: str = '') -> SentenceFolder:
    """What a folder's modules do; a BERT alone where it has no modules.json, in the folder itself or where
    such folders have it.

    Args:
      folder: of whatever kind.
      pooling: in place of the folder's own; empty: that.

    Raises ValueError where a module, or the pooling, is none that `clower_jax.Encoder` has, or a file is
    damaged.
    """
    path = folder / MODULES
    if not path.is_file():
        subfolder = folder / '0_Transformer'
        is_in_subfolder = (subfolder / 'config.json').is_file() and not (folder / 'config.json').is_file()
        return SentenceFolder(subfolder if is_in_subfolder else folder, pooling)
    first, *others = _modules(path)
    if first[0] != 'Transformer':
        raise ValueError(f'{path} begins with {first[0]}; here a Transformer (a BERT) has to come first')
    bert = folder / first[1]
    settings = _settings(bert / TRANSFORMER)
    task = settings.get('transformer_task', 'feature-extraction')
    if task != 'feature-extraction':
        raise ValueError(
            f'{bert / TRANSFORMER} has the transformer_task {reprlib.repr(task)}, which gives no vectors'
        )
    prompt = _prompt(folder / 'config_sentence_transformers.json')
    normalize, pooled = False, False
    for module_type, module_path in others:
        config = folder / module_path / 'config.json'
        if module_type == 'Pooling' and not pooled:
            pooled = True
            pooling = pooling or _pooling(config, prompt)
        elif module_type == 'Normalize' and pooled:
            normalize = True
        elif module_type != 'Dropout':  # which does nothing to a model that is not trained
            raise ValueError(
                f'{path} has the module {module_type} ({module_path}), which is not done here: Encoder has a '
                'BERT, a pooling (mean or cls) and Normalize, in this order'
            )
    if not pooled and not pooling:
        raise ValueError(
            f'{path} has no Pooling, so nobody can tell what a vector is: give pooling=mean or cls'
        )
    length = settings.get('max_seq_length')
    return SentenceFolder(bert, pooling, normalize, length, bool(settings.get('do_lower_case')), prompt)


def write(folder: Path, pooling: str, hidden_size: int, max_length: int) -> None:
    """Makes a folder with a BERT one of sentence-transformers; `pooling` is 'mean' or 'cls', `max_length` the
    tokens of a text that are read. The names are those that all versions of the library know."""
    (folder / POOLING).mkdir()
    modules = (('Transformer', ''), ('Pooling', POOLING))
    files: dict[str, Any] = {
        MODULES: [
            {'idx': i, 'name': str(i), 'path': path, 'type': f'sentence_transformers.models.{name}'}
            for i, (name, path) in enumerate(modules)
        ],
        TRANSFORMER: {'max_seq_length': max_length, 'do_lower_case': False},
        f'{POOLING}/config.json': {
            'word_embedding_dimension': hidden_size,
            **{key: mode == pooling for key, mode in MODES.items()},
        },
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')


def _modules(path: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module, in their order."""
    modules = []
    for module in read_json(path, list):
        module_type, subfolder = (
            module.get(key) if isinstance(module, dict) else None for key in ('type', 'path')
        )
        if not isinstance(module_type, str) or not isinstance(subfolder, str):
            raise ValueError(f'{path} has a module without type or path: it may be damaged')
        if subfolder:
            check_plain(path, 'path', subfolder)
        check_texts(path, 'type', [module_type])
        if not module_type.startswith('sentence_transformers.'):
            quoted = reprlib.repr(module_type)
            raise ValueError(f'{path} has the module {quoted}, which is code of its own and is not run here')
        modules.append((short(module_type.rpartition('.')[2]), subfolder))
    if not modules:
        raise ValueError(f'{path} names no module: it may be damaged')
    return modules


def _pooling(path: Path, prompt: str) -> str:
    """'mean' or 'cls'."""
    config = _without_nulls(path)
    modes = config.get('pooling_mode') or [mode for key, mode in MODES.items() if config.get(key)] or ['mean']
    modes = [modes] if isinstance(modes, str) else modes
    check_texts(path, 'pooling_mode', modes)
    if len(modes) > 1 or modes[0] not in SUPPORTED_POOLINGS:
        raise ValueError(
            f'{path} has the pooling {short(" + ".join(modes))}; Encoder has '
            f'{" and ".join(SUPPORTED_POOLINGS)}. To take '
            'one of them all the same give it as pooling'
        )
    if prompt and not config.get('include_prompt', True):
        raise ValueError(
            f"{path} has include_prompt false: to pool without the prompt '{short(prompt)}' is not done here"
        )
    return modes[0]


def _prompt(path: Path) -> str:
    """What stands before each text where the caller does not say otherwise."""
    settings = _settings(path)
    prompt = settings.get('prompts', {}).get(settings.get('default_prompt_name')) or ''
    check_texts(path, 'prompts', [prompt])
    return prompt


def _settings(path: Path) -> dict[str, Any]:
    """What a JSON file says, without what it leaves open (null); {} where there is none."""
    return _without_nulls(path) if path.is_file() else {}


def _without_nulls(path: Path) -> dict[str, Any]:
    settings = {key: value for key, value in read_json(path).items() if value is not None}
    check_entries(path, settings, ENTRIES)
    return settings
