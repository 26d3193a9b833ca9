"""The known data sets of labelled texts: their columns and labels; types of entities."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from input_pipeline.datasets.tables import NLI_LABELS, Spec


class DatasetSpec(NamedTuple):
    """What a data set's files hold. `labels` are the classes, in the order of the logits; `codes`: what a
    submission has for them, where that is something else."""

    labels: tuple[str, ...]
    spec: Spec
    codes: Mapping[str, str] = MappingProxyType({})


_TNEWS = {
    **{'100': 'news_story', '101': 'news_culture', '102': 'news_entertainment', '103': 'news_sports'},
    **{'104': 'news_finance', '106': 'news_house', '107': 'news_car', '108': 'news_edu', '109': 'news_tech'},
    **{'110': 'news_military', '112': 'news_travel', '113': 'news_world', '114': 'news_stock'},
    **{'115': 'news_agriculture', '116': 'news_game'},
}
# THUCNews has 14 topics, and its copies are ten of them: by number (with titles only), by their Chinese names
# (cnews, the documents), or by English names in the singular.
_THUCNEWS_NUMBERED = (
    *('finance', 'realty', 'stocks', 'education', 'science', 'society', 'politics', 'sports', 'game'),
    'entertainment',
)
_THUCNEWS = {
    **{str(number): name for number, name in enumerate(_THUCNEWS_NUMBERED)},
    **{'财经': 'finance', '房产': 'realty', '股票': 'stocks', '教育': 'education', '科技': 'science'},
    **{'社会': 'society', '时政': 'politics', '体育': 'sports', '游戏': 'game', '娱乐': 'entertainment'},
    **{'家居': 'home', '时尚': 'fashion', '彩票': 'lottery', '星座': 'constellation'},
    **{'stock': 'stocks', 'technology': 'science', 'politic': 'politics', 'sport': 'sports'},
}
# The names of the labels are what a fine-tuned model answers with.
DATASETS = {
    'chnsenticorp': DatasetSpec(('0', '1'), Spec(pair=False)),
    'thucnews': DatasetSpec(
        (*_THUCNEWS_NUMBERED, 'home', 'fashion', 'lottery', 'constellation'),
        Spec(pair=False, label_names=_THUCNEWS),
    ),
    # The paper joins title and keywords.
    'tnews': DatasetSpec(
        tuple(_TNEWS.values()),
        Spec(('sentence', 'keywords'), joined=True, label_names=_TNEWS),
        {name: code for code, name in _TNEWS.items()},
    ),
    'bq': DatasetSpec(('0', '1'), Spec(pair=True)),
    'lcqmc': DatasetSpec(('0', '1'), Spec(pair=True)),
    'afqmc': DatasetSpec(('0', '1'), Spec(pair=True)),  # CLUE's; the paper has no figures of it
    'ocnli': DatasetSpec(NLI_LABELS, Spec(pair=True, drop_labels=('-',))),
    # CLUE's others. Their labels are what a submission has.
    'iflytek': DatasetSpec(tuple(map(str, range(119))), Spec(('sentence',), pair=False)),
    'cmnli': DatasetSpec(NLI_LABELS, Spec(pair=True, drop_labels=('-',))),
    'csl': DatasetSpec(('0', '1'), Spec(('keyword', 'abst'), pair=True, lists=True)),  # a list of keywords
    # Does a pronoun stand for a name? In the text the name is _marked_, and [the pronoun].
    'wsc': DatasetSpec(
        ('true', 'false'),
        Spec(('text',), pair=False, marked=True, label_names={'True': 'true', 'False': 'false'}),
    ),
    # Its translated training file has a spelling of its own.
    'xnli': DatasetSpec(
        NLI_LABELS,
        Spec(
            pair=True, drop_labels=('-',), label_names={'contradictory': 'contradiction'}, languages=('zh',)
        ),
    ),
    # A file for each language.
    'pawsx': DatasetSpec(('0', '1'), Spec(('sentence1', 'sentence2'), 'label')),
}

# Types of entities, in the order of their tags.
ENTITY_TYPES = {
    'cluener': (
        *('address', 'book', 'company', 'game', 'government', 'movie', 'name', 'organization', 'position'),
        'scene',
    ),
    'msra': ('PER', 'LOC', 'ORG'),
}


def spec_of(dataset: str, text_columns: Sequence[str] = (), label_column: str = '') -> Spec:
    """How to read the files of one of `DATASETS`, or another's (everything is found out); where columns are
    given, those."""
    spec = DATASETS[dataset].spec if dataset in DATASETS else Spec()
    return spec._replace(
        text_columns=tuple(text_columns) or spec.text_columns, label_column=label_column or spec.label_column
    )
