"""Initial weights: another run, a Hugging Face folder or a TensorFlow checkpoint into a run's parameters."""

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from clower_jax.checkpoints.digests import BEST, DAMAGED_PREFIX, FOLDER, describe_damage, newest_intact
from clower_jax.interop import hf_bert, tf_checkpoint, vocab_alignment, weight_files
from clower_jax.interop.weight_sources import (
    POOLER,
    Source,
    SourceInfo,
    check_layers,
    find_source,
    is_workdir,
    source_info,
)
from clower_jax.objectives.base import Vocabulary
from clower_jax.parallel import precision
from input_pipeline.utils.problem_types import REGRESSION, SINGLE_LABEL

if TYPE_CHECKING:  # Orbax is imported where a workdir is read: no folder of anybody's needs it
    from clower_jax.checkpoints.orbax_store import Checkpoints

__all__ = [
    'TOKEN_ROWS',
    'Report',
    'SourceInfo',  # this and the next two: whoever loads weights asks first what there is
    'is_workdir',
    'source_info',
    'has_checkpoint',
    'load_initial',
    'load_token_rows',
    'open_checkpoints',
]

log = logging.getLogger(__name__)

TASK_HEADS = ('classifier/', 'qa_outputs/', 'tagger/', 'chooser/')
ENCODER = ('embeddings/', 'coarse_embeddings/', 'char_encoder/', 'word_encoder/')
COARSE = 'coarse_embeddings/'  # of words, in AMBERT
TOKEN_ROWS = ('word_embeddings/embedding', '_mlm/bias')  # ends of paths: a row, or an entry, for each token
HEAD_TASK = {'classifier': 'classify', 'qa_outputs': 'span', 'tagger': 'tag', 'chooser': 'choose'}


class Report(NamedTuple):
    """What loading did: parameters left at their random values, and tensors of the source left unused."""

    random: list[str]
    unused: list[str]

    def log(self) -> None:
        """Warns of what is random; says what is unused, and warns of layers among it."""
        for level, text, names in (
            (logging.WARNING, 'Left at random values', self.random),
            (logging.WARNING if _has_layers(self.unused) else logging.INFO, 'Not used', self.unused),
        ):
            if names:
                log.log(level, '%s (%d): %s', text, len(names), abbreviate_names(names))


def _has_layers(names: Collection[str]) -> bool:
    return any(name.startswith('encoder.layer.') for name in names)


def load_initial(
    params: dict,
    source: str | Path,
    vocabulary: Vocabulary,
    num_heads: int,
    labels: Sequence[str] | None = None,
    classify_from: str = 'pooler',
    new_pooler: bool = False,
    problem_type: str = SINGLE_LABEL,
) -> tuple[dict, Report]:
    """Parameters of a new run, taken from `source` (a config's `init_from`) where it has them.

    Args:
      params: freshly initialised parameters of any of our networks, on their devices; gives shapes and
        shardings.
      source: a run's workdir (of a fine-tuned one best/ where there is one), a Hugging Face folder of a BERT,
        or a TensorFlow checkpoint of one: its folder or its prefix. One encoder goes into both of ours.
      vocabulary: of the run. Rows are taken by token: its base block is part of the source's; its words that
        the source has not are the means of their pieces.
      num_heads: attention heads of the run's encoders, which no shape tells.
      labels: of the run's classifier: the source's is used only where its labels are the same. None: by
        their number alone.
      classify_from: what the run's classifier reads; the source's is used only where it reads the same.
      problem_type: what the run's classifier answers; the source's is used only where it answers the same.
      new_pooler: leave the pooler at random, whatever the source has. One that nothing trained there always
        is.

    Raises:
      ValueError: the source is none of these, its vocabulary or its kind of encoder is another one (ours for
        words, too), it lacks a part of the embeddings or of an encoder, a shape does not fit, its config
        says another number of layers than it has, or a tensor that is taken holds NaN or infinity. A head or
        pooler that it has not, or that has another shape, is no error: it is left at random and listed.
    """
    source_files = find_source(source)
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    key = 'model.num_heads' if source_files.kind == 'workdir' else 'num_attention_heads'
    hf_bert.check_equal(source_files.config, {key: (source_files.info.model['num_heads'], num_heads)})
    if source_files.info.kind == 'word' and any(path.startswith('char_encoder/') for path in flat):
        raise ValueError(
            f'{source} holds a word encoder, and what would start from it reads characters: export the '
            'character encoder of its run (--encoder char), or start from the run itself'
        )
    owner = f'The run in {source_files.path}' if source_files.kind == 'workdir' else str(source_files.path)
    align = vocab_alignment.align_rows(
        source_files.info.tokens, source_files.info.base_size, vocabulary, source_files.vocabulary, owner
    )
    skip_reasons = {
        path: _skip_reason(path, source_files.info, labels, classify_from, new_pooler, problem_type)
        for path in flat
    }
    if source_files.kind == 'workdir' and source_files.info.tokens == list(vocabulary.tokens):
        if not (any(skip_reasons.values()) or source_files.random) and (
            restored := _restore_whole(source_files.path, params)
        ):
            precision.check_finite(flax.traverse_util.flatten_dict(restored, sep='/'), owner)
            return restored, Report([], [])
    tensors, names, unused = _read_source(source_files, flat)
    _check_complete(source_files, names, tensors)
    precision.check_finite({name: tensors[name] for name in names.values() if name in tensors}, owner)
    untied = source_files.untied and weight_files.DECODER in tensors
    random, used = [], set()
    for path, leaf in flat.items():
        name = names[path]
        reason = 'absent' if name not in tensors else skip_reasons[path]
        if untied and '_mlm/' in path and not reason:
            reason = 'in the source it goes with a decoder that is not the token table'
        if not reason:
            value = np.asarray(tensors[name], np.float32)
            value = value.T if path.endswith('/kernel') else value
            if path.endswith(TOKEN_ROWS):
                value = align(value, len(leaf))  # AMBERT's characters have base rows alone
            if value.shape != leaf.shape and path.startswith(TASK_HEADS):
                reason = f'the source has the shape {value.shape}, the model {leaf.shape}'
        if reason:
            random.append(path if reason == 'absent' else f'{path} ({reason})')
            continue
        if value.shape != leaf.shape:
            raise ValueError(
                f'{source}: {name} has the shape {value.shape}, the model wants {leaf.shape} at '
                f'{path}: set model.* (and the vocabulary) as in {source_files.config}; if they are, the '
                'weights are of another model'
            )
        used.add(name)
        flat[path] = jax.make_array_from_callback(leaf.shape, leaf.sharding, value.__getitem__)
    unused = sorted(set(tensors) - used) + unused
    if align.num_new or vocabulary.base_size < source_files.info.base_size:
        log.info(
            'Token rows by token: %d of the %d of %s; %d words are new to it, each the mean of its pieces',
            len(vocabulary.tokens) - align.num_new, len(source_files.info.tokens), source_files.vocabulary,
            align.num_new,
        )  # fmt: skip
    return flax.traverse_util.unflatten_dict(flat, sep='/'), Report(random, unused)


def load_token_rows(source: str | Path) -> tuple[SourceInfo, dict[str, np.ndarray]]:
    """What a source says of itself, and the arrays of its character encoder with a row for each token, by our
    paths: the token table [V, D] and, where it has an MLM head, that one's bias [V]; fp32.

    Raises ValueError as `load_initial`.
    """
    source_files = find_source(source)
    paths = ('embeddings/word_embeddings/embedding', 'char_mlm/bias')
    tensors, names, _ = _read_source(source_files, paths)
    if names[paths[0]] not in tensors:
        raise ValueError(f'{source_files.path} has no token table ({names[paths[0]]})')
    precision.check_finite({name: tensors[name] for name in names.values() if name in tensors}, str(source))
    return source_files.info, {
        path: np.asarray(tensors[names[path]], np.float32) for path in paths if names[path] in tensors
    }


def _check_complete(source: Source, names: Mapping[str, str], tensors: Collection[str]) -> None:
    """Raises ValueError where the source lacks a parameter of the embeddings or of an encoder, listing them:
    what trains from random values there is not what was asked for. Heads and poolers may be new."""
    required = dict.fromkeys(
        names[path] for path in names if path.startswith(ENCODER) and 'pooler.dense/' not in path
    )
    missing = [name for name in required if name not in tensors]
    if not missing:
        return
    layers = len({match[1] for name in required if (match := re.search(r'\blayer\.(\d+)', name))})
    unexpected = sorted(name for name in set(tensors) - set(names.values()) if not name.startswith('cls.'))
    hint = (
        f' It has instead: {abbreviate_names(unexpected[:8])}{", …" * (len(unexpected) > 8)}.'
        if unexpected
        else ''
    )
    if source.info.model['num_layers'] != layers:
        num_layers = source.info.model['num_layers']
        hint += f' It has {num_layers} layers, the run {layers}: set --config.model.num_layers={num_layers}'
    raise ValueError(
        f'{source.path} is incomplete. It lacks: {abbreviate_names(missing)} ({len(missing)} of '
        f'the {len(required)} parameters of the encoder).{hint}'
    )


def _skip_reason(
    path: str,
    info: SourceInfo,
    labels: Sequence[str] | None,
    classify_from: str,
    new_pooler: bool,
    problem_type: str,
) -> str:
    """Why a head or the pooler of the source is none for this run, or ''."""
    if new_pooler and POOLER in path:
        return 'model.new_pooler'
    if path.startswith(info.untrained):
        return 'nothing trained it in the source'
    required = HEAD_TASK.get(path.partition('/')[0])
    if required and info.task != required:
        return 'the source has one of that name for something else'
    named = required in hf_bert.LABELLED and problem_type != REGRESSION
    if named and labels is not None and info.labels and info.labels != list(labels):
        return f'its labels are {", ".join(info.labels)} in the source'
    if required == 'classify' and info.problem_type != problem_type:
        return f'in the source it is for {info.problem_type}, here for {problem_type}'
    if required == 'classify' and info.classify_from != classify_from:
        return f'in the source it reads {info.classify_from}, here {classify_from}'
    return ''


def has_checkpoint(workdir: str | Path) -> bool:
    """Whether a run in this folder has saved a complete checkpoint, from which it goes on.

    Raises ValueError where it has, and none is intact.
    """
    return newest_intact(Path(workdir, FOLDER)).step is not None


def _restore_whole(folder: Path, params: dict) -> dict | None:
    """A workdir's parameters straight onto the devices, where they are the same set of arrays."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    with open_checkpoints(folder) as checkpoints:
        if checkpoints.param_shapes() != {path: leaf.shape for path, leaf in flat.items()}:
            return None
        return checkpoints.restore_params(abstract)


def open_checkpoints(workdir: Path, which: str = '') -> 'Checkpoints':
    """A run's checkpoints, to read: `which` is 'best' or 'last'; empty: the best where they were kept.

    Raises ValueError where there is no complete one, or the newest is damaged: what is then to be read is not
    ours to decide.
    """
    from clower_jax.checkpoints.orbax_store import Checkpoints

    for name in {'best': (BEST,), 'last': (FOLDER,), '': (BEST, FOLDER)}[which]:
        folder = workdir / name
        try:
            newest = newest_intact(folder)
        except ValueError as error:
            if name == FOLDER:
                raise
            raise ValueError(f'{error}; or move {folder} away and take the last parameters') from error
        if newest.damaged:
            moves = ' && '.join(
                f'mv {folder}/{step} {folder}/{DAMAGED_PREFIX}{step}' for step in newest.damaged
            )
            raise ValueError(
                f'of the checkpoints in {folder} {describe_damage(newest.damaged)}. The newest intact one is '
                f'that of step {newest.step}: to take it, move what is damaged out of the way: {moves}'
            )
        if newest.step is not None:
            return Checkpoints(workdir, read_only=True, folder=name)
    if which == 'best' and (workdir / FOLDER).is_dir():
        raise ValueError(f'{workdir} has no best checkpoint, only the last: it had no metric to select by')
    raise ValueError(f'{workdir} has no complete checkpoint yet')


def _read_source(
    source: Source, paths: Collection[str]
) -> tuple[Mapping[str, np.ndarray], dict[str, str], list[str]]:
    """The source's tensors, the name that each of our parameters has among them, and what else it holds.

    Kernels are as Hugging Face has them, [out, in].
    """
    names = {path: hf_bert.tensor_name(path) for path in paths}
    if source.kind == 'hugging_face':
        config = hf_bert.read_config(source.config)
        tensors = weight_files.read_tensors(source.path, config)
        check_layers(source.config, source.info.model['num_layers'], tensors, source.path)
        return tensors, names, []
    if source.kind == 'tensorflow':
        states = tf_checkpoint.variables(source.path).optimizer_states
        unused = [f'{states} states of the optimiser'] if states else []
        return tf_checkpoint.read_tensors(source.path), names, unused
    with open_checkpoints(source.path) as checkpoints:
        saved = checkpoints.param_shapes().keys() - source.random
        check_layers(source.config, source.info.model['num_layers'], saved, source.path)
        pretrained = source.info.task == 'pretrain'
        # Words have an embedding layer of their own in AMBERT alone: of any other source it is the one that
        # there is.
        coarse_paths = {path: path for path in saved if path.startswith(COARSE)}
        if pretrained:
            names = {path: path.replace(COARSE, 'embeddings/') for path in paths}
            for part in ('encoder/', 'mlm/', 'sop/'):  # of a run with one encoder it goes into both
                if not any(path.startswith(f'word_{part}') for path in saved):
                    names = {x: name.replace(f'word_{part}', f'char_{part}') for x, name in names.items()}
        names |= {path: path for path in paths if path in coarse_paths}
        required = {path for path in saved if path in names.values()} if pretrained else saved
        tensors = checkpoints.load_params(required)
    tensors = {path: value.T if path.endswith('/kernel') else value for path, value in tensors.items()}
    if pretrained:
        return tensors, names, sorted(saved - required)
    source_names = {path: coarse_paths.get(path, hf_bert.tensor_name(path)) for path in tensors}
    return {source_names[path]: value for path, value in tensors.items()}, names, []


def abbreviate_names(names: Iterable[str]) -> str:
    """Names on one line, those of a module together, and of like modules in several layers too:
    'a.layer.0.b.weight', 'a.layer.1.b.weight', 'a.layer.1.b.bias' → 'a.layer.0.b.weight, a.layer.1.b.{weight,
    bias}'; with 'a.layer.0.b.bias' → 'a.layer.0-1.b.{weight, bias}'."""
    modules: dict[str, list[str]] = {}
    for entry in names:
        name, space, remark = entry.partition(' ')
        module, separator, leaf = name.rpartition('/' if '/' in name else '.')
        modules.setdefault(module + separator, []).append(leaf + space + remark)
    alike: dict[tuple[str, ...], list[int]] = {}
    for module, leaves in modules.items():
        start, layer, rest = module.partition('layer.')
        end = rest.lstrip('0123456789')
        number = rest.removesuffix(end)
        alike.setdefault((start + layer, end, *leaves), []).extend([int(number)] if number else [])
    return ', '.join(
        f'{start}{_ranges(layers)}{end}' + (leaves[0] if len(leaves) == 1 else f'{{{", ".join(leaves)}}}')
        for (start, end, *leaves), layers in alike.items()
    )


def _ranges(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 → '0-2+5'."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return '+'.join(str(run[0]) if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs)
