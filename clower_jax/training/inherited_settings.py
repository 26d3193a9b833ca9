"""What a fine-tuning run takes from elsewhere: its encoder's sizes and vocabulary, how its texts are read."""

import copy
from collections.abc import Collection
from pathlib import Path

from ml_collections import ConfigDict

from clower_jax.interop import hf_bert, init_weights, weight_sources, word_segmenter
from clower_jax.models.kinds import KINDS
from clower_jax.utils.run_config import read_run_config
from input_pipeline.text.vocabulary import Vocabulary, read_tokens

# What a fine-tuned model is used with as it was trained.
TEXT_SETTINGS = (
    *('dataset', 'labels', 'text_columns', 'label_column', 'max_length', 'stride', 'max_question_length'),
    *('max_answer_length', 'n_best', 'scorer', 'simplify', 'folder', 'pairs'),
    *('segmenter', 'hmm', 'language', 'test_language', 'scheme'),
    *('problem_type', 'label_separator'),
)


def with_trained_settings(config: ConfigDict, workdir: Path, given: Collection[str] = ()) -> ConfigDict:
    """A copy of the config in which texts are read as those were that the model in `workdir` was trained on,
    except for the keys that were `given` on the command line.

    Raises ValueError where a class is to be told from another vector than it was in training.
    """
    config = copy.deepcopy(config)
    saved = read_run_config(workdir) if (workdir / 'config.json').is_file() else {}
    for section, names in (('data', TEXT_SETTINGS), ('model', ('pooling', 'projection'))):
        saved_section = saved.get(section, {})
        for name in names:
            if name in saved_section and name in config[section] and f'{section}.{name}' not in given:
                value = saved_section[name]
                config[section][name] = tuple(value) if isinstance(value, list) else value
    if 'classify_from' in config.model:
        trained_from = saved.get('model', {}).get('classify_from', 'pooler')
        if 'model.classify_from' in given and config.model.classify_from != trained_from:
            raise ValueError(
                f'model.classify_from={config.model.classify_from}, but {workdir} was trained with '
                f'{trained_from}'
            )
        config.model.classify_from = trained_from
    return config


def begun_buckets(workdir: Path) -> int:
    """`data.buckets` of the run that goes on in `workdir`, whose batches it keeps; 0 where there is none."""
    saved = read_run_config(workdir) if init_weights.has_checkpoint(workdir) else {}
    return saved.get('data', {}).get('buckets', 0)


def resolve_source(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, Vocabulary]:
    """A copy of the config with the encoder's kind and sizes as `workdir` or `init_from` have them, and the
    vocabulary of its characters, or of its words, too, where it reads them (then with `data.segmenter`, too);
    with random weights, BERT-base's sizes where none is given, and `data.vocab`.

    Raises ValueError where there is nothing to take them from, where `workdir` is of another task, or where
    the kind of model is not made for the task.
    """
    config = copy.deepcopy(config)
    resumes = init_weights.has_checkpoint(workdir)
    if not resumes and config.mode != 'train':
        raise ValueError(
            f'--config.mode={config.mode} needs a fine-tuned --workdir, and {workdir} is none. Several seeds '
            'have a folder each: seed-0, …'
        )
    origin = str(workdir) if resumes else config.init_from or config.data.vocab
    if resumes or config.init_from:
        source = weight_sources.source_info(origin)
        if resumes and source.task != config.task:
            raise ValueError(f'{workdir} is of the task {source.task!r}, the config of {config.task!r}')
        if resumes and source.labels:
            config.data.labels = tuple(config.data.labels) or tuple(source.labels)
        sizes, tokens, base_size, source_kind = source.model, source.tokens, source.base_size, source.kind
        config.model.kind = config.model.kind or source_kind
    elif config.data.vocab:
        sizes = {name: default for name, (_, default) in hf_bert.SIZES.items()}  # BERT-base's
        tokens = read_tokens(config.data.vocab)
        base_size, source_kind, config.model.kind = len(tokens), 'bert', config.model.kind or 'bert'
    else:
        raise ValueError(
            'there is nothing to start from: give --config.init_from=X, a pre-training workdir or a Hugging '
            'Face BERT folder; or, for random weights, a vocabulary: --config.data.vocab=vocab.txt'
        )
    for name, value in config.model.items():
        if value == 0 and name in sizes:
            config.model[name] = sizes[name]
    kind = config.model.kind
    if kind not in KINDS:
        raise ValueError(f'model.kind={kind!r} must be one of {", ".join(KINDS)}, or empty')
    if source_kind == 'word' and kind != 'word':
        raise ValueError(f'{origin} holds a word encoder: leave model.kind={kind} out, or take word')
    if config.task not in KINDS[kind].reads_words:
        if not KINDS[kind].is_bert or 'char' not in KINDS[kind].views:
            raise ValueError(
                f'a model.kind={kind} reads words, which the task {config.task!r} does not have: it is made '
                f'for {", ".join(KINDS[kind].reads_words)}'
            )
        if config.task not in ('classify', 'span'):
            config.model.kind = 'bert'  # what other tasks train is the character encoder alone
        return config, Vocabulary(tokens[:base_size], base_size)
    if kind == 'word' and (source_kind not in ('word', 'clower') or len(tokens) == base_size):
        raise ValueError(
            f'model.kind=word is the word encoder of a CLOWER, and {origin} has none: start from the workdir '
            'of its pre-training, or from its export with --encoder word'
        )
    if len(tokens) == base_size:
        raise ValueError(
            f'a model.kind={kind} reads words, and there are none in its vocabulary: start from a workdir of '
            f'configs/pretrain.py:{kind}, with --config.init_from'
        )
    if not config.data.segmenter:
        segmenter = word_segmenter.segmenter_of(origin)
        config.data.segmenter, config.data.hmm = segmenter['name'], segmenter.get('hmm', True)
    return config, Vocabulary(tokens, base_size)
