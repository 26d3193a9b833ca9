"""What initial weights are taken from: finding it, and what it says of itself, its weights unread."""

import dataclasses
import re
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clower_jax.checkpoints.digests import BEST, FOLDER, steps
from clower_jax.interop import hf_bert, model_hub, tf_checkpoint, weight_files
from clower_jax.models.kinds import KINDS
from clower_jax.objectives.pretraining import trains_pooler
from clower_jax.utils.config_keys import KEYS
from clower_jax.utils.folder_files import Entry, check_entries, check_texts
from clower_jax.utils.run_config import read_run_config
from input_pipeline.utils.problem_types import PROBLEM_TYPES, SINGLE_LABEL

POOLER = '/pooler.dense/'
CONFIGS = ('config.json', 'bert_config.json')  # Google's name is the second
# Of a run's config.json: what has to be there, and what may be.
RUN_MODEL = {
    **{name: KEYS[f'model.{name}'].entry() for name in (*hf_bert.SIZES, *hf_bert.RATES)},
    **{name: KEYS[f'model.{name}'].entry(1) for name in ('hidden_size', 'num_heads')},
    **{name: KEYS[f'model.{name}'].entry(1) for name in ('vocab_size', 'base_vocab_size')},
}
RUN = {**dict.fromkeys(('task', 'init_from'), Entry((str,))), 'imported': Entry((dict,))}
RUN_CHOICES = dict.fromkeys(('kind', 'pooling', 'classify_from'), Entry((str,)))
RUN_DATA = {
    'labels': Entry((list,)),
    **{name: KEYS[f'data.{name}'].entry() for name in ('max_length', 'buckets')},
    'segmenter': Entry((str,)),
    'problem_type': Entry((str,)),
    'hmm': Entry((bool,)),
}
# 'encoder.layer.0.…' of Hugging Face, 'char_encoder/encoder.layer.0/…' of ours.
_LAYER = re.compile(r'(?:\w+_encoder/)?encoder\.layer\.(\d{1,9})\b')
HOW_TO_GET_ONE = (
    'The Chinese BERT that the paper starts from is google-bert/bert-base-chinese on the Hugging Face hub, '
    'whose name will do where the hub can be reached'
)


@dataclasses.dataclass(frozen=True)
class SourceInfo:
    """What a source says of itself, its weights unread.

    model: hidden_size, num_layers, num_heads, intermediate_size, max_positions, vocab_size, base_vocab_size.
    tokens: all of them, by id; the first `base_size` are the base block.
    labels: of a classifier of texts or of tokens, in the order of its logits, LABEL_0, … where they have no
    names; else None.
    task: 'pretrain' (a CLOWER run), 'classify', 'span', 'tag' or 'choose'; None: an encoder, perhaps with
    BERT's own heads.
    rates: dropout, attention_dropout, initializer_range.
    other_head: why a classifier's head is none for us ('' where it is); it then counts as an encoder.
    kind: as `model.kind` in a config; of whatever is no run of ours, 'bert'; of an exported word encoder,
    'word'.
    folder: where its files are: the source itself, or a folder in it.
    classify_from, problem_type: of a classifier, as in a config: what its head reads, and what it answers.
    untrained: paths of parameters that are as they were drawn begin so.
    """

    model: dict[str, int]
    tokens: list[str]
    base_size: int
    labels: list[str] | None
    task: str | None
    rates: dict[str, float]
    other_head: str = ''
    kind: str = 'bert'
    folder: Path = Path()
    classify_from: str = 'pooler'
    problem_type: str = SINGLE_LABEL
    untrained: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """A source that was found.

    kind: 'workdir', 'hugging_face' or 'tensorflow'. path: the folder, or the prefix of the TensorFlow
    checkpoint. config, vocabulary: its files. random: parameters of an imported workdir that its own source
    had not. untied: the decoder for masked tokens need not be the token table.
    """

    kind: str
    path: Path
    config: Path
    vocabulary: Path
    info: SourceInfo
    random: frozenset[str] = frozenset()
    untied: bool = False


def source_info(source: str | Path) -> SourceInfo:
    """Sizes, vocabulary and labels of anything that `load_initial` takes.

    Raises ValueError where there is nothing of the kind, or it is no BERT like ours; it says why.
    """
    return find_source(source).info


def is_workdir(folder: str | Path) -> bool:
    """Whether a folder has checkpoints of a run. Folders of other people's may have a best/, too."""
    runs = Path(folder, FOLDER).is_dir() or Path(folder, BEST).is_dir()
    return runs and not weight_files.has_weights(Path(folder))


def find_source(source: str | Path) -> Source:
    """Raises ValueError as `source_info`."""
    folder = model_hub.local_folder(source)
    if is_workdir(folder):
        return _workdir_source(folder)
    seeds = sorted(str(path.parent) for path in folder.glob(f'seed-*/{FOLDER}'))
    if seeds:
        raise ValueError(f'{folder} holds a run for each of several seeds: give one of {", ".join(seeds)}')
    if located := _locate_bert(folder):
        return _bert_source(*located)
    inner_folders = [path for path in sorted(folder.glob('*')) if _looks_like_bert(path)]
    if len(inner_folders) > 1:
        raise ValueError(
            f'{folder} has several models in it: give one of {", ".join(map(str, inner_folders))}'
        )
    if inner_folders and (located := _locate_bert(inner_folders[0])):
        return _bert_source(*located)
    for names, missing_files in ((CONFIGS, weight_files.FILES), (weight_files.FILES, CONFIGS)):
        if any((folder / name).is_file() for name in names):
            raise ValueError(f'{folder} has none of {", ".join(missing_files)}')
    raise ValueError(
        f'{str(source)!r} is neither a workdir (with {FOLDER}/) nor a Hugging Face folder (with config.json '
        'and model.safetensors) nor a TensorFlow checkpoint (bert_model.ckpt.index and its data, '
        f'bert_config.json, vocab.txt). {HOW_TO_GET_ONE}'
    )


def _looks_like_bert(folder: Path) -> bool:
    """Whether a folder in the one that was given is meant: 0_Transformer/ of sentence-transformers, which has
    other modules beside it, or what an archive was unpacked to."""
    needed = (CONFIGS, hf_bert.VOCABULARIES)
    has_config_and_vocabulary = all(any((folder / name).is_file() for name in names) for names in needed)
    return has_config_and_vocabulary and not is_workdir(folder)


def _locate_bert(source: Path) -> tuple[str, Path, Path] | None:
    """Kind, path and config, as in `Source`, of somebody's BERT whose files lie right here."""
    named = [path for name in CONFIGS if (path := source / name).is_file()]
    if named and weight_files.has_weights(source):
        return 'hugging_face', source, named[0]
    prefix = tf_checkpoint.find(source)
    if prefix is None:
        return None
    config = next((path for name in CONFIGS[::-1] if (path := prefix.parent / name).is_file()), None)
    if config is None:
        raise ValueError(f'{prefix.parent} has no bert_config.json, which says what its checkpoint is')
    return 'tensorflow', prefix, config


def read_config(path: Path) -> dict[str, Any]:
    """A run's config.json, upgraded. Raises ValueError where what is read of it is missing, or of another
    type or size than it should be, naming the file and the key."""
    config = read_run_config(path.parent)
    for section in ('model', 'data'):
        if not isinstance(config.get(section, {}), dict):
            raise ValueError(f'{path}: {section} should be an object')
    model, data = config.get('model', {}), config.setdefault('data', {})
    missing = [f'model.{name}' for name in RUN_MODEL if name not in model]
    if config['task'] in hf_bert.LABELLED and 'labels' not in data:
        missing.append('data.labels')
    if missing:
        raise ValueError(f'{path} lacks {", ".join(missing)}: it is no config.json of a run, or was damaged')
    check_entries(path, model, RUN_MODEL | RUN_CHOICES, 'model.')
    check_entries(path, data, RUN_DATA, 'data.')
    check_entries(path, config, RUN)
    check_texts(path, 'data.labels', data.get('labels', ()))
    if model.get('kind', '') not in (*KINDS, ''):
        raise ValueError(f'{path}: model.kind is {reprlib.repr(model["kind"])}, which is no kind of model')
    if data.get('problem_type', '') not in ('', *PROBLEM_TYPES):
        raise ValueError(f'{path}: data.problem_type is {reprlib.repr(data["problem_type"])}, which is none')
    if not model['base_vocab_size'] <= model['vocab_size']:
        raise ValueError(f'{path}: model.base_vocab_size is larger than model.vocab_size')
    return config


def check_layers(config: Path, expected: int, names: Iterable[str], weights_path: Path) -> None:
    """Raises ValueError where the weights of a source have other layers than its config says.

    Args:
      expected: the number of layers by `config`.
      names: of the tensors of an encoder, as Hugging Face has them or by our paths.
      weights_path: the file or folder with the weights.
    """
    numbers = [int(match[1]) for name in names if (match := _LAYER.match(name))]
    if numbers and max(numbers) + 1 != expected:
        raise ValueError(
            f'{config} says that there are {expected} layers, and {weights_path} has {max(numbers) + 1}: '
            'correct the number in the first, or save the weights anew'
        )


def _workdir_source(folder: Path) -> Source:
    path = folder / 'config.json'
    if not path.is_file():
        if steps(folder / FOLDER) or steps(folder / BEST):
            raise ValueError(f'{path} is missing, which says what the checkpoints in {folder} are')
        raise ValueError(f'{folder} has no complete checkpoint yet')
    config = read_config(path)
    names = (*hf_bert.SIZES, 'vocab_size', 'base_vocab_size')
    model = {name: config['model'][name] for name in names}
    task = config['task']
    tokens = hf_bert.read_tokens(folder / 'vocab.txt')
    labels = list(config['data']['labels']) if task in hf_bert.LABELLED else None
    rates = {name: config['model'][name] for name in hf_bert.RATES}
    kind = config['model'].get('kind') or 'clower'
    classify_from = config['model'].get('classify_from', 'pooler')
    untrained: tuple[str, ...] = ()
    if task == 'pretrain' and not config.get('init_from'):
        untrained = tuple(
            f'{part.encoder}{POOLER}'
            for view, part in KINDS[kind].parts.items()
            if not trains_pooler(config, view)
        )
    info = SourceInfo(
        model, tokens, model['base_vocab_size'], labels, task, rates,
        kind=kind, folder=folder, classify_from=classify_from, untrained=untrained,
        problem_type=config['data'].get('problem_type') or SINGLE_LABEL,
    )  # fmt: skip
    random = frozenset(config.get('imported', {}).get('random', ()))
    return Source('workdir', folder, path, folder / 'vocab.txt', info, random)


def _bert_source(kind: str, path: Path, config_path: Path) -> Source:
    folder, config = config_path.parent, hf_bert.read_config(config_path)
    vocabulary, tokens, base_size = hf_bert.read_vocabulary(folder, config.get('vocab_size'))
    hf_bert.check_rows(config_path, config.get('vocab_size', len(tokens)), vocabulary, len(tokens))
    model, rates = (
        {name: config.get(hf_name, default) for name, (hf_name, default) in names.items()}
        for names in (hf_bert.SIZES, hf_bert.RATES)
    )
    if kind == 'tensorflow':
        names = [tf_checkpoint.hugging_face_name(name) for name in tf_checkpoint.variables(path).shapes]
    else:
        names = weight_files.known_names(path)
    check_layers(config_path, model['num_layers'], names, path)
    model |= {'vocab_size': len(tokens), 'base_vocab_size': base_size}
    if kind == 'tensorflow':
        task, num_labels = tf_checkpoint.head(path)
    else:
        task = hf_bert.TASKS.get((config.get('architectures') or [''])[0])
        num_labels = config.get('num_labels', 2)
    labels = hf_bert.labels(config, num_labels) if task in hf_bert.LABELLED else None
    other_head = hf_bert.other_classifier(config, labels or ()) if task == 'classify' else ''
    if other_head:
        task = labels = None
    kind_of_model = 'word' if hf_bert.clower_entry(config, 'encoder') == 'word' else 'bert'
    untrained: tuple[str, ...] = ()
    if hf_bert.clower_entry(config, hf_bert.POOLER) == hf_bert.ZEROS:
        untrained = tuple(f'{part.encoder}{POOLER}' for part in KINDS['clower'].parts.values())
    info = SourceInfo(
        model, tokens, base_size, labels, task, rates, other_head, kind_of_model, folder,
        problem_type=(task == 'classify' and config.get('problem_type')) or SINGLE_LABEL,
        untrained=untrained,
    )  # fmt: skip
    untied = config.get('tie_word_embeddings') is False
    return Source(kind, path, config_path, vocabulary, info, untied=untied)
