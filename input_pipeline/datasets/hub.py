"""The known data sets: who publishes them, under which file names, and loading one by its name."""

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

log = logging.getLogger(__name__)

_NAME = re.compile(r'hf:(?P<source>[^:]+):(?P<split>\w+(\[[^\]]*\])?)')
_REPOSITORY = re.compile(r'(?P<path>[\w.-]+/[\w.-]+)(/(?P<config>[\w./-]+))?')
SPLITS = ('train', 'dev', 'test')
_CLUE = 'the CLUE benchmark, github.com/CLUEbenchmark/CLUE'
_CLUE_TESTS = ('test1.1.json', 'test.json', 'test1.0.json')  # the one that is scored today first

T = TypeVar('T')


class Source(NamedTuple):
    """Where a data set comes from. All but `publisher` are per split: train, dev, test.

    files: the official names and those of common copies.
    sizes: as published: examples that have a gold label, or questions.
    names: on the Hugging Face hub (see `fetch`).
    """

    publisher: str
    files: dict[str, tuple[str, ...]]
    sizes: dict[str, int]
    names: dict[str, str]


def _by_split(train: T, dev: T | None = None, test: T | None = None) -> dict[str, T]:
    splits = {'train': train, 'dev': dev, 'test': test}
    return {split: value for split, value in splits.items() if value is not None}


def _hub_names(name: str, *splits: str) -> dict[str, str]:
    return {split: f'hf:{name}:{split.replace("dev", "validation")}' for split in splits or SPLITS}


SOURCES = {
    'chnsenticorp': Source(
        'Songbo Tan; the usual split is in github.com/ymcui/Chinese-BERT-wwm, data/chnsenticorp',
        _by_split(('train.tsv',), ('dev.tsv',), ('test.tsv',)),
        _by_split(9600, 1200, 1200),
        _hub_names('lansinuote/ChnSentiCorp'),
    ),
    'thucnews': Source(
        'THUNLP, thuctc.thunlp.org; the subset in use has ten of its topics and is known as cnews',
        _by_split(
            ('cnews.train.txt', 'train.txt'), ('cnews.val.txt', 'dev.txt'), ('cnews.test.txt', 'test.txt')
        ),
        _by_split(50000, 5000, 10000),
        _hub_names('oyxy2019/THUCNewsText'),
    ),
    'tnews': Source(
        _CLUE,
        _by_split(('train.json',), ('dev.json',), ('test.json', 'test1.0.json')),
        _by_split(53360, 10000, 10000),
        _hub_names('clue/clue/tnews'),
    ),
    'bq': Source(
        'Harbin Institute of Technology, Shenzhen, on application: icrc.hitsz.edu.cn (BQ Corpus)',
        {split: (f'{split}.csv', f'{split}.tsv', f'{split}.txt') for split in SPLITS},
        _by_split(100000, 10000, 10000),
        _hub_names('C-MTEB/BQ'),
    ),
    'lcqmc': Source(
        'Harbin Institute of Technology, Shenzhen, on application: icrc.hitsz.edu.cn (LCQMC)',
        {split: (f'{split}.txt', f'{split}.tsv') for split in SPLITS},
        _by_split(238766, 8802, 12500),
        _hub_names('C-MTEB/LCQMC'),
    ),
    'afqmc': Source(
        _CLUE,
        {split: (f'{split}.json', f'{split}.txt') for split in SPLITS},
        _by_split(34334, 4316, 3861),
        _hub_names('clue/clue/afqmc'),
    ),
    'ocnli': Source(
        'the OCNLI authors, github.com/CLUEbenchmark/OCNLI',
        _by_split(('train.50k.json', 'train.json'), ('dev.json',), ('test.json',)),
        _by_split(50437, 2950, 3000),
        _hub_names('clue/clue/ocnli'),
    ),
    'xnli': Source(
        'github.com/facebookresearch/XNLI: XNLI-1.0 and, for training, XNLI-MT-1.0',
        _by_split(
            ('multinli.train.{language}.tsv', 'train.tsv'),
            ('xnli.dev.tsv', 'dev.tsv'),
            ('xnli.test.tsv', 'test.tsv'),
        ),
        _by_split(392702, 2490, 5010),
        _hub_names('facebook/xnli/zh'),
    ),
    'pawsx': Source(
        'github.com/google-research-datasets/paws, pawsx: x-final',
        _by_split(
            ('{language}/train.tsv', '{language}/translated_train.tsv'),
            ('{language}/dev_2k.tsv',),
            ('{language}/test_2k.tsv',),
        ),
        {},
        {},
    ),
    'iflytek': Source(
        _CLUE,
        {split: (f'{split}.json',) for split in SPLITS},
        _by_split(12133, 2599, 2600),
        _hub_names('clue/clue/iflytek'),
    ),
    'cmnli': Source(
        _CLUE, {split: (f'{split}.json',) for split in SPLITS}, {}, _hub_names('clue/clue/cmnli')
    ),
    'csl': Source(
        _CLUE,
        {split: (f'{split}.json',) for split in SPLITS},
        _by_split(20000, 3000, 3000),
        _hub_names('clue/clue/csl'),
    ),
    'wsc': Source(
        _CLUE,
        _by_split(('train.json',), ('dev.json',), _CLUE_TESTS),
        _by_split(1244, 304),
        _hub_names('clue/clue/cluewsc2020'),
    ),
    'c3': Source(
        'the C3 authors, github.com/nlpdata/c3, and the CLUE benchmark',
        {
            split: tuple(f'{name}m-{split}.json,{name}d-{split}.json' for name in ('c3-', ''))
            + (_CLUE_TESTS if split == 'test' else ())
            for split in SPLITS
        },
        {},
        _hub_names('clue/clue/c3'),
    ),
    'chid': Source(
        _CLUE + ' (each with its …_answer.json)',
        _by_split(('train.json',), ('dev.json',), _CLUE_TESTS),
        {},
        {},
    ),
    'cluener': Source(
        'the CLUENER authors, github.com/CLUEbenchmark/CLUENER2020',
        _by_split(('train.json',), ('dev.json',), ('test.json',)),
        _by_split(10748, 1343, 1345),
        _hub_names('xusenlin/clue-ner'),
    ),
    # Copies have sizes of their own.
    'msra': Source(
        'the third SIGHAN bakeoff (Levow 2006); usual copies lie in github.com/OYE93/Chinese-NLP-Corpus, '
        'NER/MSRA',
        _by_split(
            ('msra_train_bio.txt', 'msra_train_bio', 'train1.txt', 'train.txt'),
            ('msra_dev_bio.txt', 'dev.txt'),
            ('msra_test_bio.txt', 'msra_test_bio', 'testright1.txt', 'test.txt'),
        ),
        {},
        {},
    ),
    'cmrc2018': Source(
        'HFL, github.com/ymcui/cmrc2018',
        _by_split(
            ('cmrc2018_train.json', 'train.json'),
            ('cmrc2018_dev.json', 'dev.json'),
            ('cmrc2018_test_2k.json', 'test.json'),
        ),
        _by_split(10142, 3219),
        _hub_names('clue/clue/cmrc2018', 'train', 'dev'),
    ),
    'drcd': Source(
        'Delta Research Center, github.com/DRCKnowledgeTeam/DRCD',
        _by_split(
            ('DRCD_training.json', 'train.json'),
            ('DRCD_dev.json', 'dev.json'),
            ('DRCD_test.json', 'test.json'),
        ),
        _by_split(26936, 3524, 3493),
        _hub_names('clue/clue/drcd'),
    ),
}


def missing(dataset: str, folder: str | Path, split: str) -> str:
    """What to tell a person where a split ('train', 'dev', 'test') is missing. `dataset`: one of `SOURCES`;
    anything else is a user's own; `folder`: where its official files would have been found."""
    option = f'--config.data.{split}'
    if dataset not in SOURCES:
        return f'There is no {split} file: name it, {option}=FILE'
    source = SOURCES[dataset]
    files = ' or '.join(source.files.get(split, ()))
    text = (
        f'The {split} split of {dataset} is not there. It is published by {source.publisher}. '
        + (f'Put its file, {files}, into {folder} (--config.data.folder), or name' if files else 'Name')
        + f' it: {option}=FILE'
    )
    if split in source.names:
        text += f'. On a machine with a network a copy can be loaded: {option}={source.names[split]}'
    return text


def check_size(dataset: str, split: str, size: int) -> None:
    """Warns where a split of a known data set has another size than the published one."""
    published = SOURCES[dataset].sizes.get(split, size) if dataset in SOURCES else size
    if size != published:
        log.warning(
            'The %s split of %s has %s examples here and %s as published: figures are not comparable',
            *(split, dataset, f'{size:,}', f'{published:,}'),
        )


def is_name(path: str) -> bool:
    """Whether a path is the name of a data set on the Hugging Face hub."""
    return path.startswith('hf:')


def fetch(name: str) -> list[dict[str, Any]]:
    """The rows of a data set of the Hugging Face hub, in its order, as dicts of its columns.

    name: 'hf:OWNER/NAME[/CONFIG]:SPLIT', or 'hf:FOLDER:SPLIT' with a folder of parquet, JSON or csv files. A
    slice may follow the split, as in 'train[:100]'. A class number becomes the class's name, in lists too;
    −1, which stands for a label that is not public, becomes None.

    Raises:
        ImportError: the library `datasets` is not installed.
        ValueError: `name` is of another form, or cannot be loaded.
    """
    parsed = _NAME.fullmatch(name)
    repository = _REPOSITORY.fullmatch(parsed['source']) if parsed else None
    if parsed and Path(parsed['source']).is_dir():
        path, config = parsed['source'], None
    elif parsed and repository:
        path, config = repository['path'], repository['config']
    else:
        raise ValueError(
            f'{name} is neither hf:OWNER/NAME[/CONFIG]:SPLIT, such as hf:clue/clue/tnews:train, nor '
            'hf:FOLDER:SPLIT with a folder that is there'
        )
    try:
        import datasets  # an optional extra
    except ImportError as error:
        raise ImportError(f"{name} needs the library datasets: pip install 'clower-jax[hub]'") from error
    try:
        data = datasets.load_dataset(path, config, split=parsed['split'])
    except Exception as error:  # of many types, for what is not there, the network, the format
        raise ValueError(
            f'{name} cannot be loaded: {error}. With a file on this machine no network is needed: '
            '--config.data.train=FILE'
        ) from error
    columns = {column: _named(list(data[column]), feature) for column, feature in data.features.items()}
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def _named(values: list, feature: Any) -> list:
    """A column with names for class numbers, also where it has lists of them."""
    if hasattr(feature, 'int2str'):
        return [None if value is None or value < 0 else feature.int2str(value) for value in values]
    inner = getattr(feature, 'feature', None)
    if hasattr(inner, 'int2str'):
        return [value if value is None else _named(list(value), inner) for value in values]
    return values
