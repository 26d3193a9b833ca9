"""Initial weights: another run, a Hugging Face folder or a TensorFlow checkpoint into a run's parameters."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.traverse_util
import jax
import numpy as np

from clower_jax import hugging_face, tf_checkpoint, token_rows
from clower_jax.checkpoint import BEST, FOLDER, Checkpoints

HEADS = ('classifier/', 'qa_outputs/')
COARSE = 'coarse_embeddings/'  # of words, in AMBERT
HEAD_TASK = {'classifier': 'classify', 'qa_outputs': 'span'}
HOW_TO_GET_ONE = (
    'To fetch the Chinese BERT that the paper starts from: '
    'hf download google-bert/bert-base-chinese --local-dir bert-base-chinese'
)


class Report(NamedTuple):
    """What loading did: parameters left at their random values, and tensors of the source left unused."""

    random: list[str]
    unused: list[str]


@dataclasses.dataclass(frozen=True)
class SourceInfo:
    """What a source says of itself, its weights unread.

    model: hidden_size, num_layers, num_heads, intermediate_size, max_positions, vocab_size, base_vocab_size.
    tokens: all of them, by id; the first `base_size` are the base block.
    labels: of a classifier, in the order of its logits, LABEL_0, … where they have no names; else None.
    task: 'pretrain' (a CLOWER run), 'classify' or 'span'; None: an encoder, perhaps with BERT's own heads.
    rates: dropout, attention_dropout, initializer_range.
    other_head: why a classifier's head is none for us ('' where it is); it then counts as an encoder.
    kind: as `model.kind` in a config; of whatever is no run of ours, 'bert'; of an exported word encoder,
    'word'.
    """

    model: dict[str, int]
    tokens: list[str]
    base_size: int
    labels: list[str] | None
    task: str | None
    rates: dict[str, float]
    other_head: str = ''
    kind: str = 'bert'


@dataclasses.dataclass(frozen=True)
class _Source:
    """A source that was found. `kind`: 'workdir', 'hugging_face' or 'tensorflow'; `path`: the folder, or the
    prefix of the TensorFlow checkpoint; `random`: parameters of an imported workdir that its own source had
    not; `untied`: the decoder for masked tokens need not be the token table."""

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
    return _find(source).info


def load_initial(
    params: dict,
    source: str | Path,
    vocabulary: token_rows.VocabularyLike,
    num_heads: int,
    labels: Sequence[str] | None = None,
) -> tuple[dict, Report]:
    """Parameters of a new run, taken from `source` (a config's `init_from`) where it has them.

    Args:
      params: freshly initialised parameters of any of our networks, on their devices; gives shapes and
        shardings.
      source: a run's workdir (of a fine-tuned one best/ where there is one), a Hugging Face folder of a BERT,
        or a TensorFlow checkpoint of one: its folder or its prefix. One encoder goes into both of ours.
      vocabulary: of the run. It is the source's; or the source's base block; or its base block is the
        source's, and the rows of its words are the means of their pieces'.
      num_heads: attention heads of the run's encoders, which no shape tells.
      labels: of the run's classifier: the source's is used only where its labels are the same. None: by
        their number alone.

    Raises:
      ValueError: the source is none of these, its vocabulary or its kind of encoder is another one (ours for
        words, too), or a shape does not fit. A head of another shape is no error: it is left at random and
        listed.
    """
    found = _find(source)
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    key = 'model.num_heads' if found.kind == 'workdir' else 'num_attention_heads'
    hugging_face.check_same(found.config, {key: (found.info.model['num_heads'], num_heads)})
    if found.info.kind == 'word' and any(path.startswith('char_encoder/') for path in flat):
        raise ValueError(
            f'{source} holds a word encoder, and what would start from it reads characters: export the '
            'character encoder of its run (--encoder char), or start from the run itself'
        )
    owner = f'The run in {found.path}' if found.kind == 'workdir' else str(found.path)
    fit = token_rows.fit(found.info.tokens, found.info.base_size, vocabulary, found.vocabulary, owner)
    if found.kind == 'workdir' and found.info.tokens == list(vocabulary.tokens):
        other_head = any(_other_head(path, found.info, labels) for path in flat)
        if not (other_head or found.random) and (restored := _restore_whole(found.path, params)):
            return restored, Report([], [])
    tensors, names, unused = _read(found, flat)
    untied = found.untied and hugging_face.DECODER in tensors
    random, used = [], set()
    for path, leaf in flat.items():
        name = names[path]
        reason = 'absent' if name not in tensors else _other_head(path, found.info, labels)
        if untied and '_mlm/' in path and not reason:
            reason = 'in the source it goes with a decoder that is not the token table'
        if not reason:
            value = np.asarray(tensors[name], np.float32)
            value = value.T if path.endswith('/kernel') else value
            if path.endswith(('word_embeddings/embedding', '_mlm/bias')):
                value = fit(value)[: len(leaf)]  # AMBERT's characters have base rows alone
            if value.shape != leaf.shape and path.startswith(HEADS):
                reason = f'the source has the shape {value.shape}, the model {leaf.shape}'
        if reason:
            random.append(path if reason == 'absent' else f'{path} ({reason})')
            continue
        if value.shape != leaf.shape:
            raise ValueError(
                f'{source}: {name} has the shape {value.shape}, the model wants {leaf.shape} at '
                f'{path}: set model.* (and the vocabulary) as in {found.config}; if they are, the weights '
                'are of another model'
            )
        used.add(name)
        flat[path] = jax.make_array_from_callback(leaf.shape, leaf.sharding, value.__getitem__)
    unused = sorted(set(tensors) - used) + unused
    return flax.traverse_util.unflatten_dict(flat, sep='/'), Report(random, unused)


def _other_head(path: str, info: SourceInfo, labels: Sequence[str] | None) -> str:
    """Why a head of the source is none for this run, or ''."""
    wanted = HEAD_TASK.get(path.partition('/')[0])
    if wanted and info.task != wanted:
        return 'the source has one of that name for something else'
    if wanted == 'classify' and labels is not None and info.labels and info.labels != list(labels):
        return f'its labels are {", ".join(info.labels)} in the source'
    return ''


def is_workdir(folder: str | Path) -> bool:
    """Whether a folder has checkpoints of a run. Folders of other people's may have a best/, too."""
    runs = Path(folder, FOLDER).is_dir() or Path(folder, BEST).is_dir()
    return runs and not hugging_face.has_weights(Path(folder))


def is_begun(workdir: str | Path) -> bool:
    """Whether a run in this folder has saved a complete checkpoint, from which it goes on."""
    if not Path(workdir, FOLDER).is_dir():
        return False
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.latest_step is not None


def _find(source: str | Path) -> _Source:
    folder = Path(source)
    if is_workdir(folder):
        return _workdir(folder)
    seeds = sorted(str(path.parent) for path in folder.glob(f'seed-*/{FOLDER}'))
    if seeds:
        raise ValueError(f'{folder} holds a run for each of several seeds: give one of {", ".join(seeds)}')
    named = (folder / 'config.json').is_file()
    prefix = None if named and hugging_face.has_weights(folder) else tf_checkpoint.find(source)
    if named and not prefix:
        return _bert(folder, 'hugging_face', folder, folder / 'config.json')
    if prefix:
        names = ('bert_config.json', 'config.json')
        config = next((prefix.parent / name for name in names if (prefix.parent / name).is_file()), None)
        if config is None:
            raise ValueError(f'{prefix.parent} has no bert_config.json, which says what its checkpoint is')
        return _bert(prefix.parent, 'tensorflow', prefix, config)
    raise ValueError(
        f'{str(source)!r} is neither a workdir (with {FOLDER}/) nor a Hugging Face folder (with config.json '
        'and model.safetensors) nor a TensorFlow checkpoint (bert_model.ckpt.index and its data, '
        f'bert_config.json, vocab.txt). {HOW_TO_GET_ONE}'
    )


def _workdir(folder: Path) -> _Source:
    path = folder / 'config.json'
    if not path.is_file():
        raise ValueError(f'{folder} has no complete checkpoint yet')
    config = json.loads(path.read_text(encoding='utf-8'))
    names = (*hugging_face.SIZES, 'vocab_size', 'base_vocab_size')
    model = {name: config['model'][name] for name in names}
    task = config.get('task', 'pretrain')  # runs of version 0.1 do not say
    tokens = hugging_face.read_tokens(folder / 'vocab.txt')
    labels = list(config['data']['labels']) if task == 'classify' else None
    rates = {name: config['model'][name] for name in hugging_face.RATES}
    kind = config['model'].get('kind') or 'clower'
    info = SourceInfo(model, tokens, model['base_vocab_size'], labels, task, rates, kind=kind)
    random = frozenset(config.get('imported', {}).get('random', ()))
    return _Source('workdir', folder, path, folder / 'vocab.txt', info, random)


def _bert(folder: Path, kind: str, path: Path, config_path: Path) -> _Source:
    config = hugging_face.read_config(config_path)
    vocabulary, tokens, base_size = hugging_face.read_vocabulary(folder)
    hugging_face.check_rows(config_path, config.get('vocab_size', len(tokens)), vocabulary, len(tokens))
    model, rates = (
        {ours: config.get(theirs, default) for ours, (theirs, default) in names.items()}
        for names in (hugging_face.SIZES, hugging_face.RATES)
    )
    model |= {'vocab_size': len(tokens), 'base_vocab_size': base_size}
    if kind == 'tensorflow':
        task, num_labels = tf_checkpoint.head(path)
    else:
        task = hugging_face.TASKS.get((config.get('architectures') or [''])[0])
        num_labels = config.get('num_labels', 2)
    labels = hugging_face.labels(config, num_labels) if task == 'classify' else None
    other_head = hugging_face.other_classifier(config, labels) if labels is not None else ''
    if other_head:
        task = labels = None
    reads = 'word' if hugging_face.own_entry(config, 'encoder') == 'word' else 'bert'
    info = SourceInfo(model, tokens, base_size, labels, task, rates, other_head, reads)
    untied = config.get('tie_word_embeddings') is False
    return _Source(kind, path, config_path, vocabulary, info, untied=untied)


def _restore_whole(folder: Path, params: dict) -> dict | None:
    """A workdir's parameters straight onto the devices, where they are the same set of arrays."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    with open_checkpoints(folder) as checkpoints:
        if checkpoints.param_shapes() != {path: leaf.shape for path, leaf in flat.items()}:
            return None
        return checkpoints.restore_params(abstract)


def open_checkpoints(workdir: Path, which: str = '') -> Checkpoints:
    """A run's checkpoints, to read: `which` is 'best' or 'last'; empty: the best where they were kept.

    Raises ValueError where there is no complete one.
    """
    for name in {'best': (BEST,), 'last': (FOLDER,), '': (BEST, FOLDER)}[which]:
        if (workdir / name).is_dir():
            checkpoints = Checkpoints(workdir, read_only=True, folder=name)
            if checkpoints.latest_step is not None:
                return checkpoints
            checkpoints.__exit__()
    if which == 'best' and (workdir / FOLDER).is_dir():
        raise ValueError(f'{workdir} has no best checkpoint, only the last: it had no metric to select by')
    raise ValueError(f'{workdir} has no complete checkpoint yet')


def _read(
    source: _Source, paths: Collection[str]
) -> tuple[Mapping[str, np.ndarray], dict[str, str], list[str]]:
    """The source's tensors, the name that each of our parameters has among them, and what else it holds.

    Kernels are as Hugging Face has them, [out, in].
    """
    names = {path: hugging_face.tensor_name(path) for path in paths}
    if source.kind == 'hugging_face':
        return hugging_face.read_tensors(source.path), names, []
    if source.kind == 'tensorflow':
        states = tf_checkpoint.variables(source.path).optimizer_states
        unused = [f'{states} states of the optimiser'] if states else []
        return tf_checkpoint.read_tensors(source.path), names, unused
    with open_checkpoints(source.path) as checkpoints:
        saved = checkpoints.param_shapes().keys() - source.random
        pretrained = source.info.task == 'pretrain'
        # Words have an embedding layer of their own in AMBERT alone: of any other source it is the one that
        # there is.
        coarse = {path: path for path in saved if path.startswith(COARSE)}
        if pretrained:
            names = {path: path.replace(COARSE, 'embeddings/') for path in paths}
        names |= {path: path for path in paths if path in coarse}
        wanted = {path for path in saved if path in names.values()} if pretrained else saved
        tensors = checkpoints.load_params(wanted)
    tensors = {path: value.T if path.endswith('/kernel') else value for path, value in tensors.items()}
    if pretrained:
        return tensors, names, sorted(saved - wanted)
    theirs = {path: coarse.get(path, hugging_face.tensor_name(path)) for path in tensors}
    return {theirs[path]: value for path, value in tensors.items()}, names, []
