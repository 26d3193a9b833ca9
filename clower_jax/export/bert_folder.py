"""A run as an ordinary Hugging Face folder, which transformers loads with no code of ours. Needs no torch."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from clower_jax.export import model_card, onnx_model
from clower_jax.interop import hf_bert, model_hub, sentence_folder, vocab_alignment, wordpiece
from clower_jax.interop.init_weights import TASK_HEADS, TOKEN_ROWS, load_token_rows, open_checkpoints
from clower_jax.interop.weight_sources import is_workdir, source_info
from clower_jax.interop.word_segmenter import find_manifest, segmenter_of
from clower_jax.models.clower import PAD_ID
from clower_jax.models.kinds import KINDS, kind_of
from clower_jax.objectives.pretraining import predicts_order, trains_pooler
from clower_jax.objectives.registry import SENTENCE_TASKS
from clower_jax.parallel import precision
from clower_jax.utils import folder_files, output_folder
from clower_jax.utils.metrics_file import read_metrics
from clower_jax.utils.run_config import read_run_config
from input_pipeline.text.wordpiece import SPECIAL
from input_pipeline.utils.problem_types import MULTI_LABEL, SINGLE_LABEL

log = logging.getLogger(__name__)

HEADS = ('all', 'mlm', 'none')
THRESHOLDS = 'thresholds.json'  # of a run that gives several labels: from which probability on each is given
# All that an export writes: a folder with anything else in it is somebody's own.
FILES = {
    *('README.md', 'config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'),
    *('vocab.txt', 'word_vocab.txt', 'word_vocab.json'),
    *sentence_folder.FILES,
    *(str(Path(onnx_model.MODEL).parent), onnx_model.MODEL),
}


def export(
    workdir: str | Path,
    output: str | Path,
    encoder: str = 'char',
    keep_word_rows: bool = False,
    which: str = '',
    heads: str = 'all',
    license: str = '',
    overwrite: bool = False,
    ids_of: str | Path = '',
    base_model: str = '',
    onnx: bool = False,
) -> Path:
    """Writes the folder `output`: weights, config.json, the tokenizer's files and a model card.

    Args:
      workdir: of a pre-training run, a fine-tuned one, or what `convert import` wrote.
      encoder: 'char', a drop-in for the BERT that its vocabulary is of; 'word' keeps every row of the token
        table and needs `input_pipeline.word_tokenizer`.
      keep_word_rows: of the character encoder too.
      which: 'best' or 'last'; empty: the best where the run kept it.
      heads: of a pre-trained encoder. 'all': the pooler and the heads for masked tokens and sentence order,
        as far as something trained them; with both heads it is a BertForPreTraining. 'mlm': a
        BertForMaskedLM. 'none': a BertModel. Each class of transformers mentions what else it finds and does
        not use.
      license: of the weights, for the model card.
      overwrite: replace an older export there, if nothing was put into it since.
      ids_of: a BERT with all tokens of the run's base block, and more: its folder or workdir. Tokens get its
        ids; rows of the table and of the MLM head's bias that the run has not stay as they are there. Empty:
        the run's own ids.
      base_model: what model hubs call the initial weights, for the model card; empty: known, or not said.
      onnx: also as `onnx/model.onnx`, checked against PyTorch; it needs the extra 'onnx'.

    Returns:
      `output`.

    Raises:
      ValueError: there is nothing to export, a parameter holds NaN or infinity, `output` is in the way, or
        the choices do not go together.
    """
    workdir, output = Path(workdir), Path(output).resolve()  # '.' has a name, too
    if not workdir.is_dir():
        raise ValueError(f'there is no folder {workdir}: give the workdir of a run, such as runs/pretrain')
    info = source_info(workdir)
    if not is_workdir(workdir):
        raise ValueError(f'{workdir} is no workdir of a run. Weights from elsewhere: first convert import')
    task, kind = info.task or 'pretrain', info.kind
    if kind == 'word':
        encoder = 'word'  # which was fine-tuned, and is all that there is
    elif encoder == 'word' and task != 'pretrain':
        raise ValueError(f'{workdir} is a fine-tuned model: it has no word encoder')
    if task != 'pretrain' and (keep_word_rows or heads != 'all'):
        raise ValueError(
            f'{workdir} is a fine-tuned model: it has no word rows to keep, and one head or none. Leave out '
            '--keep_word_rows and --heads'
        )
    config = read_run_config(workdir)
    if reason := export_obstacle(kind, task, info.classify_from):
        raise ValueError(f'{workdir} {reason}')
    if KINDS[kind].num_tables > 1 and encoder == 'char' and keep_word_rows:
        raise ValueError(
            f'{workdir} is a model of the kind {kind!r}: its characters have a table of their own, without '
            'word rows. Leave out --keep_word_rows, or take --encoder word'
        )
    if encoder not in KINDS[kind].views:
        raise ValueError(f'{workdir} is a model of the kind {kind!r}: it has no {encoder} encoder')
    if encoder == 'word' and len(info.tokens) == info.base_size:
        raise ValueError(f'{workdir} has no words in its vocabulary, and so no word encoder to export')
    if ids_of and (encoder == 'word' or keep_word_rows):
        raise ValueError(
            f'the ids of {ids_of} are of characters: leave out --ids_of, or --encoder word and '
            '--keep_word_rows'
        )
    _check_output(output, overwrite)
    rows = len(info.tokens) if encoder == 'word' or keep_word_rows else info.base_size
    with open_checkpoints(workdir, which) as checkpoints:
        step = checkpoints.latest_step or 0
        paths = _select_paths(checkpoints.param_shapes(), config, task, encoder, heads)
        params, tokens = checkpoints.load_params(paths), info.tokens[: info.base_size]
    precision.check_finite(params, str(workdir))
    same_ids, part_of = find_initial_bert(config, tokens)
    if ids_of:
        params, tokens = restore_source_ids(ids_of, params, tokens)
        ids_of = ids_of if model_hub.is_name(ids_of) else Path(ids_of).resolve()
        rows, same_ids, part_of = len(tokens), model_hub.base_name(ids_of), ''
    if part_of:
        log.warning(
            'The vocabulary is a part of that of %s: --ids_of gives its tokens the ids there', part_of
        )
    tensors = state_dict(params, rows)
    has_pooler = any('pooler.dense' in name for name in tensors)
    architecture = _select_architecture(tensors, task)
    length = config['model']['max_positions']
    if task != 'pretrain':
        length = config['data'].get('max_length') or length
    manifest = find_manifest(config, workdir, info.tokens, info.base_size)
    own_settings = {'encoder': encoder, 'sentence_order': 'cls.seq_relationship.weight' in tensors}
    if info.problem_type == MULTI_LABEL:
        own_settings['thresholds'] = folder_files.read_optional_json(workdir / THRESHOLDS) or {}
    pooling = config['model'].get('pooling')
    own_settings |= {'pooling': pooling} if pooling else {}
    if pooling and not has_pooler:  # sentence-transformers loads a class that has one, and warns without
        width = config['model']['hidden_size']
        shapes = {'weight': (width, width), 'bias': (width,)}
        tensors |= {f'pooler.dense.{name}': np.zeros(x, np.float32) for name, x in shapes.items()}
        own_settings[hf_bert.POOLER] = hf_bert.ZEROS
    settings = bert_config(config['model'], architecture, rows, info.labels)
    if info.problem_type != SINGLE_LABEL:
        settings['problem_type'] = info.problem_type

    with output_folder.atomic_folder(output, sum(tensor.nbytes for tensor in tensors.values())) as folder:
        safetensors.numpy.save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
        _write_json(folder / 'config.json', settings | {hf_bert.CLOWER_KEY: own_settings})
        shutil.copymode(folder / 'config.json', folder / 'model.safetensors')  # else for its owner alone
        write_tokenizer(folder, tokens, length)
        if pooling:
            sentence_folder.write(folder, pooling, config['model']['hidden_size'], length)
        if rows > len(tokens):
            _write_words(folder, info.tokens, info.base_size, segmenter_of(workdir))
        card = model_card.render(
            model_card.CardData(
                name=output.name,
                encoder=encoder,
                architecture=architecture,
                word_rows=rows - len(tokens),
                pooler=has_pooler,
                ids_of=same_ids,
                part_of=part_of,
                base_model=base_model,
                step=step,
                license=license,
                config=config,
                onnx=onnx,
                manifest=manifest,
                held_out=_read_held_out(workdir, step),
                results=_read_results(workdir),
            )
        )
        (folder / 'README.md').write_text(card, encoding='utf-8')
        if onnx:
            onnx_model.write(folder)
    return output


def export_obstacle(kind: str, task: str, classify_from: str) -> str:
    """Why a model cannot be exported, to follow its name; '' where it can."""
    if not KINDS[kind].is_bert or task in KINDS[kind].reads_words and len(KINDS[kind].views) > 1:
        return (
            f'is a model of the kind {kind!r}{" with a head" * (task != "pretrain")}: it reads '
            'characters and words at once, which no BERT does, so it stays a workdir'
        )
    if task not in ('pretrain', *hf_bert.TASKS.values(), *SENTENCE_TASKS):
        return f'has a head of the task {task!r}, for which transformers has no class, so it stays a workdir'
    if task == 'classify' and classify_from != 'pooler':
        return (
            f'classifies from {classify_from} (model.classify_from), a BertForSequenceClassification from '
            'the pooler, so it stays a workdir. Fine-tune with --config.model.classify_from=pooler'
        )
    return ''


def restore_source_ids(
    source: str | Path, params: Mapping[str, np.ndarray], tokens: list[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Parameters with the base rows of their token table, and of the MLM head's bias, at the ids that a BERT
    has for these tokens, between its own rows; and that BERT's tokens."""
    info, source_arrays = load_token_rows(source)
    source_rows = vocab_alignment.align_rows(
        info.tokens[: info.base_size], info.base_size, vocab_alignment.SourceVocabulary(tokens, len(tokens)),
        Path(source), 'The model whose ids are asked for',
    ).source_rows  # fmt: skip
    restored = dict(params)
    for path, value in params.items():
        if path.endswith(TOKEN_ROWS):
            kept = source_arrays.get(path, np.zeros((info.base_size, *value.shape[1:]), np.float32))
            if kept.shape[1:] != value.shape[1:]:
                width, own_width = kept.shape[1], value.shape[1]
                raise ValueError(
                    f'{source} has token rows of width {width}, not {own_width}: it is another model'
                )
            restored[path] = np.array(kept[: info.base_size], np.float32)
            restored[path][source_rows] = value[: len(tokens)]
    return restored, info.tokens[: info.base_size]


def find_initial_bert(config: Mapping[str, Any], tokens: list[str]) -> tuple[str, str]:
    """The name of the BERT that a run started from, over other runs too: first where it has these tokens
    under the same ids; second where it has them under others. '' where it has not, there is none, or it is
    not at hand any more."""
    visited: set[str] = set()
    source = config.get('init_from') or ''
    while source not in visited and is_workdir(source):
        visited.add(source)
        source = read_run_config(source).get('init_from') or ''
    try:
        info = source_info(source) if source not in {'', *visited} else None
    except (ValueError, OSError):
        info = None
    source_tokens = info.tokens[: info.base_size] if info else []
    name = model_hub.base_name(source if model_hub.is_name(source) else Path(source).resolve())
    return name * (source_tokens == tokens), name * (
        source_tokens != tokens and set(tokens) <= set(source_tokens)
    )


def state_dict(params: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Parameters of one encoder by path → tensors as transformers saves them; `rows` of the token table.

    The decoder of the MLM head is tied to the token table and therefore not among them.
    """
    bare = not any(path.startswith(('char_mlm', 'word_mlm', *TASK_HEADS)) for path in params)
    tensors = {}
    for path, value in params.items():
        name = hf_bert.tensor_name(path).replace(hf_bert.SENTENCE_ORDER, hf_bert.NEXT_SENTENCE)
        if path.startswith(('embeddings', 'coarse_embeddings', 'char_encoder', 'word_encoder')) and not bare:
            name = f'bert.{name}'
        if path.endswith(TOKEN_ROWS):
            value = value[:rows]
        tensors[name] = np.ascontiguousarray(value.T if path.endswith('/kernel') else value)
    return tensors


def bert_config(
    model: Mapping[str, Any], architecture: str, rows: int, labels: list[str] | None
) -> dict[str, Any]:
    """transformers' config.json of a run's `model.*`."""
    names = hf_bert.SIZES | hf_bert.RATES
    settings = {'architectures': [architecture], **hf_bert.FIXED}
    settings |= {hf_name: model[name] for name, (hf_name, _) in names.items()}
    settings |= {'vocab_size': rows, 'pad_token_id': PAD_ID, 'classifier_dropout': None, 'dtype': 'float32'}
    if labels is not None:
        settings['id2label'] = {str(i): label for i, label in enumerate(labels)}
        settings['label2id'] = {label: i for i, label in enumerate(labels)}
    return settings


def write_tokenizer(folder: Path, tokens: list[str], max_length: int) -> None:
    """BERT's uncased tokenizer over these tokens as transformers wants it: vocab.txt, tokenizer.json and its
    config.

    Word rows are not among them: a word of Latin letters ('iphone') would be matched, and give other ids.
    """
    tokenizer = wordpiece.tokenizer(tokens)
    tokenizer.save(str(folder / 'tokenizer.json'))
    settings = {'tokenizer_class': 'BertTokenizer', 'do_lower_case': True, 'tokenize_chinese_chars': True}
    settings |= {'strip_accents': None, 'model_max_length': max_length}
    special = {f'{name}_token': token for name, token in SPECIAL.items()}
    _write_json(folder / 'tokenizer_config.json', settings | special)
    _write_tokens(folder / 'vocab.txt', tokens)


def _select_paths(saved: Iterable[str], config: dict, task: str, encoder: str, heads: str) -> list[str]:
    """Which parameters go into the folder: of a head or the pooler none that is known to be as it was drawn.

    Sentence order alone trains a pooler; initial weights may bring one.
    """
    if heads not in HEADS:
        raise ValueError(f'heads={heads!r} must be one of {", ".join(HEADS)}')
    if task in hf_bert.TASKS.values():
        return list(saved)
    if task != 'pretrain':  # a sentence encoder: what else it was trained with serves nothing any more
        return [path for path in saved if path.startswith(('embeddings/', 'char_encoder/'))]
    embeddings, encoder_name = kind_of(config).parts[encoder]
    parts = [f'{embeddings}/', f'{encoder_name}/']
    parts += [f'{encoder}_mlm/'] if heads != 'none' else []
    parts += [f'{encoder}_sop/'] if heads == 'all' and predicts_order(config, encoder) else []
    at_random = config.get('imported', {}).get('random', [])
    left_out = {_module(path) for path in at_random}
    if heads == 'mlm' or not (trains_pooler(config, encoder) or config.get('init_from')):
        left_out.add(f'{encoder_name}/pooler.dense')
    return [path for path in saved if path.startswith(tuple(parts)) and _module(path) not in left_out]


def _module(path: str) -> str:
    """What is exported as a whole or not at all: a head, the pooler."""
    part, _, rest = path.partition('/')
    return part if part.endswith(('_mlm', '_sop')) else f'{part}/{rest.rpartition("/")[0]}'


def _select_architecture(tensors: Mapping[str, np.ndarray], task: str) -> str:
    for architecture, head_task in hf_bert.TASKS.items():
        if task == head_task:
            return architecture
    if 'cls.predictions.bias' not in tensors:
        return 'BertModel'
    return 'BertForPreTraining' if 'cls.seq_relationship.weight' in tensors else 'BertForMaskedLM'


def _check_output(output: Path, overwrite: bool) -> None:
    """Raises ValueError where something is in the way that may not be replaced."""
    output_folder.check_parents(output)
    if not output.exists() or output.is_dir() and not any(output.iterdir()):
        return
    config = folder_files.read_optional_json(output / 'config.json') if output.is_dir() else None
    if not config or hf_bert.CLOWER_KEY not in config:
        raise ValueError(f'{output} is in the way, and no export: give another folder')
    unknown_files = sorted({str(path.relative_to(output)) for path in output.rglob('*')} - FILES)
    if unknown_files:
        listed = ', '.join(unknown_files)
        raise ValueError(f'{output} has files that no export wrote ({listed}): give another folder')
    if 'transformers_version' in config:  # which keeps our key
        raise ValueError(f'{output} was saved by transformers since it was exported: give another folder')
    if not overwrite:
        raise ValueError(f'{output} holds an older export: give --overwrite to replace it, or another folder')


def _write_words(folder: Path, tokens: list[str], base_size: int, segmenter: dict[str, Any]) -> None:
    """All tokens and where the words begin, as `input_pipeline.text.vocabulary.Vocabulary` saves them."""
    path = folder / hf_bert.WORD_VOCABULARY
    _write_tokens(path, tokens)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    sidecar = {'segmenter': segmenter, 'base_size': base_size}
    _write_json(path.with_suffix('.json'), sidecar | {'num_words': len(tokens) - base_size, 'sha256': sha256})


def _read_held_out(workdir: Path, step: int) -> dict[str, float]:
    """The held-out metrics of the exported step, or of the last evaluation before it."""
    rows = read_metrics(workdir / 'metrics.jsonl')
    rows = [row for row in rows if row['split'] == 'validation' and row['step'] <= step]
    return rows[-1] if rows else {}


def _read_results(workdir: Path) -> dict[str, Any] | None:
    """Of a fine-tuned run: results.json, which lies one folder up where there were several seeds."""
    up = workdir.resolve().parent if workdir.resolve().name.startswith('seed-') else workdir
    return folder_files.read_optional_json(workdir / 'results.json') or folder_files.read_optional_json(
        up / 'results.json'
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + '\n', encoding='utf-8')


def _write_tokens(path: Path, tokens: list[str]) -> None:
    path.write_bytes(''.join(f'{token}\n' for token in tokens).encode())
