"""The model card (README.md) of an exported folder, filled from the run that it comes from."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clower_jax.export import card_examples
from clower_jax.interop import model_hub
from clower_jax.interop.weight_sources import is_workdir
from clower_jax.models.kinds import kind_of
from clower_jax.objectives.registry import SENTENCE_TASKS
from clower_jax.utils.config_checks import flatten
from clower_jax.utils.config_keys import KEYS
from input_pipeline.utils.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL

PAPER = 'Chen et al. 2022, *CLOWER*, COLING 2022, [arXiv 2208.10844](https://arxiv.org/abs/2208.10844)'
PUBLISHERS = ('google-bert', 'hfl')  # whose models Chinese BERTs mostly start from, as model hubs name them
PIPELINES = {
    'BertModel': 'feature-extraction',
    'BertForMaskedLM': 'fill-mask',
    'BertForPreTraining': 'fill-mask',
    'BertForSequenceClassification': 'text-classification',
    'BertForQuestionAnswering': 'question-answering',
    'BertForTokenClassification': 'token-classification',
    'BertForMultipleChoice': 'multiple-choice',
}
NO_LICENSE = (
    'Not stated. It depends on the text and on the initial weights that this model was trained with; whoever '
    'passes it on should state it (`--license`).'
)


MASKS = {
    'words': 'on whole masked words',
    'ngrams': 'to put back words that were replaced by similar ones (MacBERT, arXiv 2004.13922)',
}


class CardData(NamedTuple):
    """What a card is made of.

    name: the folder's. encoder: 'char' or 'word'. word_rows: how many words are in the token table.
    pooler: whether there is one. ids_of: the name of the BERT whose tokens have the same ids, or ''; part_of:
    of one that has these tokens and others, under other ids.
    base_model: what model hubs call the initial weights, where the user said so.
    config: the run's config.json. onnx: whether the folder has the model in ONNX, too.
    manifest: of its corpus; held_out: metrics at `step`, the step exported; results: a fine-tuned run's
    results.json; each empty or None where there is none.
    """

    name: str
    encoder: str
    architecture: str
    word_rows: int
    pooler: bool
    ids_of: str
    part_of: str
    base_model: str
    step: int
    license: str
    config: dict[str, Any]
    onnx: bool
    manifest: dict[str, Any] | None
    held_out: dict[str, float]
    results: dict[str, Any] | None


def render(card: CardData) -> str:
    """The card: a header in YAML that model hubs read, then Markdown. It names files, not their places."""
    sentences = card.config.get('task') in SENTENCE_TASKS
    pipeline = 'sentence-similarity' if sentences else PIPELINES[card.architecture]
    header = {
        'language': 'zh',
        'library_name': 'sentence-transformers' if sentences else 'transformers',
        # Pipelines take the tokenizer of the folder, which gives characters.
        'pipeline_tag': 'feature-extraction' if card.encoder == 'word' else pipeline,
        'license': card.license or 'unknown',
        'base_model': card.base_model or _hub_id(card.config.get('init_from') or ''),
        'tags': ['clower', 'bert', *(['sentence-transformers'] if sentences else [])],
    }
    lines = [
        '---',
        *(f'{key}: {_yaml(value)}' for key, value in header.items() if value),
        '---',
        f'\n# {card.name}',
    ]
    for title, text in (
        ('', _describe(card)),
        ('Intended use and limits', _describe_limits(card)),
        ('How to use', _usage(card)),
        ('Training data', training_data(card.config, card.manifest)),
        ('Settings', _settings(card)),
        ('Metrics', _metrics(card)),
        ('Licence', card.license or NO_LICENSE),
    ):
        lines += [f'\n## {title}\n', text] if title else ['', text]
    return '\n'.join(lines) + '\n'


def snippets(card: CardData) -> list[str]:
    """Python that uses the folder, run from the folder above it."""
    if card.encoder == 'word':
        examples = [
            card_examples.CLASSIFY_WORDS
            if card.architecture == 'BertForSequenceClassification'
            else card_examples.WORDS
        ]
    elif card.config.get('task') in SENTENCE_TASKS:
        examples = [
            card_examples.SENTENCE_TRANSFORMER,
            card_examples.SENTENCES.replace(
                'POOLING', card_examples.POOLING[card.config['model']['pooling']]
            ),
        ]
    else:
        architecture = card.architecture
        tuned = {
            'BertForSequenceClassification': {
                SINGLE_LABEL: card_examples.CLASSIFY,
                MULTI_LABEL: card_examples.CLASSIFY_MULTI_LABEL,
                REGRESSION: card_examples.SCORE,
            }[_problem_type(card)],
            'BertForQuestionAnswering': card_examples.ANSWER,
            'BertForTokenClassification': card_examples.TAG,
            'BertForMultipleChoice': card_examples.CHOOSE,
        }
        examples = [tuned[architecture]] if architecture in tuned else []
        if architecture == 'BertForTokenClassification' and _is_bioes(card):
            examples = [card_examples.TAG_BIOES]
        examples += (
            [card_examples.VECTORS] if not examples and (card.pooler or architecture == 'BertModel') else []
        )
        examples += [card_examples.FILL] if architecture in ('BertForMaskedLM', 'BertForPreTraining') else []
    return [code.replace("'FOLDER'", repr(card.name)).strip('\n') for code in examples]


def _describe(card: CardData) -> str:
    sizes = card.config['model']
    shape = f'{sizes["num_layers"]} layers of width {sizes["hidden_size"]}'
    if card.architecture == 'BertForSequenceClassification':
        labels = card.config['data']['labels']
        shown = ', '.join(f'`{label}`' for label in labels[:20]) + (' …' if len(labels) > 20 else '')
        texts = 'pairs of texts' if card.config['data'].get('pairs') else 'texts'
        purpose = {
            SINGLE_LABEL: f'classify {texts} with {len(labels)} labels: {shown}',
            MULTI_LABEL: f'give {texts} any of {len(labels)} labels: {shown}',
            REGRESSION: f'give {texts} a score',
        }[_problem_type(card)]
        return f'A Chinese BERT ({shape}), fine-tuned to {purpose}.'
    if card.architecture == 'BertForQuestionAnswering':
        return f'A Chinese BERT ({shape}), fine-tuned to find the answer to a question in a text.'
    if card.architecture == 'BertForTokenClassification':
        labels = card.config['data']['labels']
        types = list(dict.fromkeys(label[2:] for label in labels if label[1:2] == '-'))
        shown = ', '.join(f'`{type_}`' for type_ in types[:20]) + (' …' if len(types) > 20 else '')
        return f'A Chinese BERT ({shape}), fine-tuned to find entities in texts: {shown}.'
    if card.architecture == 'BertForMultipleChoice':
        return f'A Chinese BERT ({shape}), fine-tuned to choose the answer to a question about a text.'
    if 'imported' in card.config:
        return f'A Chinese BERT ({shape}), converted from `{_initial(card.config)}` and not trained further.'
    if card.config.get('task') in SENTENCE_TASKS:
        method = SENTENCE_TASKS[card.config['task']].trained_by(card.config)
        pooling = {
            'mean': "the mean of its tokens' last hidden states",
            'cls': 'the last hidden state of [CLS]',
        }
        return (
            f'A BERT ({shape}) that turns texts into vectors to be compared by cosine, trained by '
            f'{method}. The vector of a text is {pooling[card.config["model"]["pooling"]]}.'
        )
    view = {'char': 'character', 'word': 'word'}[card.encoder]
    kind = kind_of(card.config)
    if len(kind.views) == 1:
        return (
            f'A Chinese BERT ({shape}), pre-trained {_describe_masks(card)}{kind.card}: a baseline of '
            f'CLOWER, without its word encoder and its contrast ({PAPER}).'
        )
    contrast = {
        'both': 'together with contrastive learning between them',
        'token': 'together with contrastive learning between words and their characters, not between texts',
        'sentence': 'together with contrastive learning between texts, not between words',
        'none': 'side by side, without the contrastive learning of CLOWER: a baseline of it',
    }[card.config.get('loss', {}).get('contrast_on', 'both')]
    return f'The {view} encoder ({shape}) {kind.card} pre-trained {contrast} ({PAPER}).'


def _problem_type(card: CardData) -> str:
    return card.config['data'].get('problem_type') or SINGLE_LABEL


def _is_bioes(card: CardData) -> bool:
    return any(label.startswith('S-') for label in card.config['data']['labels'])


def _describe_masks(card: CardData) -> str:
    data = card.config.get('data', {})
    text = MASKS[data.get('masking', 'words')]
    num_masks = data.get('explored_masks', 1)
    coverage = ' that cover it' if data.get('explore_whole') else ''
    return text + (
        f', each text under {num_masks} disjoint masks{coverage} (arXiv 2010.06040)' if num_masks > 1 else ''
    )


def _describe_limits(card: CardData) -> str:
    positions = card.config['model']['max_positions']
    task = {
        'BertForSequenceClassification': {
            SINGLE_LABEL: 'It gives any text one of its labels, also a text of another kind.',
            MULTI_LABEL: 'It knows no other labels, and gives them to a text of another kind, too.',
            REGRESSION: 'It gives any text a score, also a text of another kind.',
        }[_problem_type(card)],
        'BertForQuestionAnswering': 'It points at a part of the text, also where the text holds no answer.',
        'BertForMultipleChoice': 'It chooses one of the answers, also where none is right.',
        'BertForTokenClassification': 'It has a tag for every token; an entity may be any run of them.',
    }.get(card.architecture, 'It is made to be fine-tuned, or to give vectors; it does not generate text.')
    return (
        f'For Chinese text, lower-cased, up to {positions} tokens at a time{_describe_trained_length(card)}. '
        f'{task} '
        'It has learned what its training text says, with its mistakes and prejudices: do not let it decide '
        'about people unchecked.'
    )


def _describe_trained_length(card: CardData) -> str:
    """', trained on …': BERT's later positions are as they came."""
    data = card.config.get('data', {})
    length = data.get('max_length') or data.get(f'{card.encoder}_length')
    return f'; it was trained on up to {length}' if length and 'imported' not in card.config else ''


def _usage(card: CardData) -> str:
    parts = [f'```python\n{code}\n```' for code in snippets(card)]
    if card.architecture == 'BertForSequenceClassification' and _problem_type(card) == MULTI_LABEL:
        parts.append(
            'A label is given from the probability on that `thresholds` says, in `config.json` under '
            '`clower_jax`: chosen for each label on the development set, 0.5 where there was none.'
        )
    if card.architecture == 'BertForPreTraining':
        parts.append(
            'The folder is a `BertForPreTraining`: beside the encoder it has the pooler, the head for masked '
            'tokens and, in place of the next-sentence head, one for sentence order (1: the two segments are '
            'swapped). `AutoModel` and `AutoModelForMaskedLM` find all of their weights, and report as '
            'unexpected those that they have no use for.'
        )
    elif card.architecture == 'BertForMaskedLM' and card.pooler:
        parts.append(
            'The folder is a `BertForMaskedLM` and has the pooler too, which `AutoModel` takes. Each class '
            'reports as unexpected what it has no use for. There is no head for the order of sentences.'
        )
    elif card.config.get('task') in SENTENCE_TASKS and not card.pooler:
        parts.append(
            'Nothing trained a pooler, so it is all zeros: `pooler_output` is 0 for every text, and '
            '`last_hidden_state` does not depend on it.'
        )
    elif card.architecture in ('BertForMaskedLM', 'BertModel') and not card.pooler:
        parts.append(
            'There is no pooler: `AutoModel` draws one at random and says so; `last_hidden_state` does not '
            'depend on it.'
        )
    if card.architecture == 'BertForTokenClassification' and _is_bioes(card):
        parts.append(
            'Tags are BIOES: an entity is one token, S-, or begins with B- and ends with E-. The aggregation '
            'of the pipeline knows BIO alone.'
        )
    if card.encoder == 'word':
        parts.append(
            '`WordTokenizer` comes with CLOWER-JAX and cuts a text into words as in training. '
            '`AutoTokenizer` gives characters: valid ids, but this encoder has rarely seen them for words.'
        )
    elif card.word_rows:
        branch = card.config.get('loss', {}).get('mlm_candidates') == 'branch'
        parts.append(
            f'The last {card.word_rows:,} rows of the token table are words (`word_vocab.txt`). '
            'The tokenizer never gives them. '
            + (
                'The head for masked tokens was never trained on them but scores them, too: keep the first '
                f'{card.config["model"]["base_vocab_size"]:,} logits.'
                if branch
                else 'A guess may be one.'
            )
        )
    else:
        same_ids = (
            f', the same as in `{card.ids_of}`, which this model can stand in for' if card.ids_of else ''
        )
        part_of = f' It is a part of that of `{card.part_of}`, with ids of its own.' if card.part_of else ''
        parts.append(f'Token ids are those of `vocab.txt`{same_ids}.{part_of}')
    if card.onnx:
        parts.append(
            '`onnx/model.onnx` computes the same in ONNX Runtime: `input_ids`, `attention_mask` and '
            '`token_type_ids`, int64, batch × length.'
        )
    return '\n\n'.join(parts)


def training_data(config: Mapping[str, Any], manifest: Mapping[str, Any] | None) -> str:
    """What a run began from and read, in Markdown, given its config.json and its corpus's manifest."""
    data, initial = config.get('data', {}), _initial(config)
    if 'imported' in config:
        return f'Not trained here: see `{initial}`.'
    parts = [f'Initial weights: `{initial}`.' if initial else 'From random initial weights.']
    if manifest:
        files = ', '.join(f'`{_basename(entry["path"])}`' for entry in manifest.get('input', []))
        documents, segmenter = manifest['documents'], manifest['segmenter']
        parts.append(
            f'{documents["kept"]:,} documents with {manifest["characters"]:,} characters, kept of '
            f'{documents["read"]:,} documents read from {files or "the corpus"}; '
            f'{documents["validation"]:,} of them are held out. '
            f'Words were cut by {segmenter["name"]} {segmenter.get("version", "")}'.rstrip()
            + '.'
        )
    elif data.get('corpus'):
        parts.append(
            f'The corpus `{_basename(data["corpus"])}`, which was not at hand when this was written.'
        )
    names = {split: data.get(split) for split in ('train', 'dev', 'test') if data.get(split)}
    if data.get('dataset'):
        parts.append(f'The data set {data["dataset"]}.')
    if names:
        parts.append(
            'Files: ' + ', '.join(f'{split} `{_basename(name)}`' for split, name in names.items()) + '.'
        )
    return ' '.join(parts)


def _settings(card: CardData) -> str:
    flat = flatten(card.config)
    rows = [('step exported', f'{card.step:,}')]
    listed = [key for key, declared in KEYS.items() if declared.card and key in flat]
    rows += [(f'`{key}`', setting_over_time(card.config, card.step, key, flat[key])) for key in listed]
    return _table(('setting', 'value'), rows)


def setting_over_time(config: dict[str, Any], step: int, key: str, value: Any) -> str:
    """A setting's value up to a step: '1e-4 up to step 1,000, then 2e-5' where it changed. config: the run's
    config.json, with its history."""
    parts: list[str] = []
    for entry in config.get('history', []):
        if key in entry['settings']:
            before = entry['settings'][key]
            if entry['until_step'] >= step:
                return ', then '.join([*parts, str(before)])
            parts.append(f'{before} up to step {entry["until_step"]:,}')
    return ', then '.join([*parts, str(value)])


def _metrics(card: CardData) -> str:
    per_seed = (card.results or {}).get('per_seed', [])
    seed_results = [entry for entry in per_seed if entry['seed'] == card.config['seed']]
    which = (
        _parameters_of_step(seed_results[0], card.step, card.config.get('total_steps'))
        if seed_results
        else ''
    )
    if which:
        return _fine_tuned_metrics(which, seed_results[0], card.results or {}, len(per_seed))
    rows = [(name, number(value)) for name, value in card.held_out.items() if name not in ('step', 'split')]
    return _table(('held out', f'at step {card.held_out["step"]}'), rows) if rows else 'None were measured.'


def _parameters_of_step(measured: dict, step: int, total_steps: int | None) -> str:
    """'best' or 'last', whichever results.json has of this step; '' where it is of others."""
    validation = measured.get('validation') or {'last': {'step': total_steps}}  # none: measured at the end
    return next((which for which, metrics in validation.items() if metrics.get('step') == step), '')


def _fine_tuned_metrics(which: str, seed_results: dict, results: dict, seeds: int) -> str:
    """The metrics of the exported parameters, and where there are several seeds what all of them gave."""
    head = ('metric', 'value', *((f'mean of {seeds} seeds', 'standard deviation') if seeds > 1 else ()))
    rows: list[tuple] = []
    for split in ('validation', 'test'):
        for name, value in seed_results.get(split, {}).get(which, {}).items():
            if name != 'step':
                statistics = (
                    [results[statistic][split][which][name] for statistic in ('mean', 'std')]
                    if seeds > 1
                    else []
                )
                rows.append((f'{split} {name}', *map(number, (value, *statistics))))
    return _table(head, rows)


def _initial(config: Mapping[str, Any]) -> str:
    """The name of what the weights started from; '' for nothing."""
    return _basename(config.get('init_from') or '')


def _hub_id(init_from: str) -> str:
    """What model hubs call the initial weights, where that is sure. They were read from a disk, and a path of
    two parts may be any folder: only under a publisher's own name it is taken for a copy of his model. What
    was fetched from a hub has its revision behind its name."""
    if '@' in init_from:
        return init_from.partition('@')[0]
    if _basename(init_from) == 'bert-base-chinese':
        return 'google-bert/bert-base-chinese'
    owner, _, name = init_from.partition('/')
    named = owner in PUBLISHERS and re.fullmatch(r'[\w.-]+', name)
    return init_from if named and not is_workdir(init_from) else ''


def _basename(path: str) -> str:
    return model_hub.base_name(str(path).rstrip('/'))


def _yaml(value: Sequence[str]) -> str:
    """Plain where it can be, else as JSON, which YAML understands."""
    plain = isinstance(value, str) and re.fullmatch(r'[A-Za-z][\w./-]*', value)
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


def number(value: float | str) -> str:
    """A metric with four digits."""
    return f'{value:.4g}' if isinstance(value, int | float) else str(value)


def _table(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ('---',) * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)
