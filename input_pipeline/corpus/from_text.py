"""The corpus that a run makes of text (`data.text`) in its own folder, and takes again until that changes."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from input_pipeline.corpus import corpus_files
from input_pipeline.documents import sources
from input_pipeline.utils import output_file
from input_pipeline.utils.partial_folder import partial_folder

log = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parent.parent / 'embedded'
LENGTHS = ('char_length', 'word_length')


def corpus_of(data: ConfigDict, workdir: Path) -> Path:
    """The folder `<workdir>/corpus`, made of `data.text` unless it holds just that already; says which."""
    text = os.fspath(EMBEDDED / '*.txt') if data.text == 'embedded' else data.text
    if data.base_vocab and not epath.Path(data.base_vocab).is_file():
        raise ValueError(
            f'data.base_vocab={data.base_vocab} is no file; give the vocab.txt of a Chinese BERT'
        )
    made_from = describe(text, data)
    folder = workdir / 'corpus'
    record = folder / 'made_from.json'
    begun = any(workdir.glob('checkpoints/*'))

    def is_made() -> bool:
        if not record.is_file():
            return False
        try:
            before = json.loads(record.read_text('utf-8'))
        except ValueError as error:
            raise ValueError(
                f'{record} is damaged ({error}); remove {folder}, and the corpus is made again'
            ) from error
        if begun and 'min_count' not in before:  # of an old run, which took every word; it goes on with them
            before |= {'min_count': made_from['min_count']}
        return before == made_from

    if is_made():
        log.info('Corpus: %s, made before from %r', folder, data.text)
        return folder
    if folder.exists() and not record.is_file():
        raise ValueError(
            f'{folder} is in the way: it is to hold the corpus made from data.text, but no run made it. '
            'Move it away, or give another --workdir, or use it with --config.data.corpus'
        )
    if folder.exists() and begun:
        raise ValueError(
            f'the run in {workdir} was trained on another text, or on a corpus of other settings, than '
            f'{data.text!r} now makes: give another --workdir (and --config.init_from={workdir} only if the '
            'vocabulary is the same)'
        )
    why = ', because the text or its settings changed' if folder.exists() else ''
    log.info('Corpus: making %s from %r%s', folder, data.text, why)

    # They need Beam, which a run on a finished corpus does not.
    from input_pipeline.corpus import corpus_builder, vocab_builder

    with partial_folder(folder) as temporary:
        vocab, made = Path(temporary, 'vocab.txt'), Path(temporary, 'corpus')
        vocab_builder.build(
            text,
            vocab,
            data.base_vocab or None,
            data.num_words,
            data.num_chars or None,
            min_count=data.min_count,
            segmenter=data.segmenter,
            text_field=data.text_field,
        )
        corpus_builder.build(
            text,
            vocab,
            made,
            validation_fraction=data.validation_fraction,
            text_field=data.text_field,
            **{name: data[name] for name in LENGTHS if data[name]},
        )
        output_file.write_json(made / record.name, made_from)
        if not is_made():  # else another process of this run was faster, with the same bytes
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return folder


def describe(text: str, data: ConfigDict) -> dict[str, Any]:
    """What decides the records made of `text`: the contents of its files, in order, and the settings."""
    paths = dict.fromkeys(chunk.path for chunk in sources.plan(text, text_field=data.text_field))
    names = ('num_words', 'min_count', 'segmenter', 'validation_fraction', *LENGTHS)
    settings = {name: data[name] for name in names}
    if data.text_field:
        settings['text_field'] = data.text_field
    settings |= {'num_chars': data.num_chars} if data.num_chars else {}
    return settings | {
        'base_vocab': corpus_files.sha256(data.base_vocab) if data.base_vocab else '',
        'text': [path if path.startswith('tfds:') else corpus_files.sha256(path) for path in paths],
    }
