"""What reads text, tables, questions, records, vocabularies, and the command line."""

import atexit
import contextlib
import gzip
import io
import itertools
import json
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from absl import flags
from ml_collections import ConfigDict, config_flags

from clower_jax.utils import command_line
from fuzz.engine import Target
from input_pipeline.corpus import corpus_files, record_files, record_source, windows
from input_pipeline.datasets import choices, labelled, tagged
from input_pipeline.datasets import squad as datasets_squad
from input_pipeline.documents import sources
from input_pipeline.documents.report import Report
from input_pipeline.features import reading_windows
from input_pipeline.pretraining import loader, similar_words
from input_pipeline.sentence_vectors import mirror_bert, mlctl, sentences, supervised_vectors, word_alignment
from input_pipeline.text import segmenters
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils.counts import Ledger

ROOT = Path(__file__).parent.parent.parent
PARAGRAPHS = ['我们喜欢北京大学。春天的风！', 'Linux 系统，café 与 3.11？', '“她说：好。”又一句…', '一']
TEXT = '\n'.join(PARAGRAPHS[:3]) + '\n\n' + '\r\n'.join(PARAGRAPHS[1:]) + '\n \n' + PARAGRAPHS[3]
SPECIALS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
BASE = [*SPECIALS, *sorted({*TEXT.lower(), *'abcdefghijklmnopqrstuvwxyz0123456789'} - {*' \n\r'})]
BASE += ['##' + letter for letter in 'abcdefghijklmnopqrstuvwxyz0123456789'] + ['[unused1]', 'linux']
WORDS = ['我们', '北京大学', '喜欢', '春天', '系统', 'café', '两个']
ROW = (40, 24)  # tokens of a row, characters and words


def targets() -> dict[str, Target]:
    """By name; their files lie in memory where the system has a place for that."""
    memory = Path('/dev/shm')
    folder = Path(tempfile.mkdtemp(prefix='fuzz-', dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    vocabulary = Vocabulary(BASE, len(BASE))
    with_words = Vocabulary(BASE[:-1] + ['linux', *WORDS], len(BASE))
    rows = [{'text': text, 'title': None, 'n': n} for n, text in enumerate([TEXT, *PARAGRAPHS, ''])]
    lines = '\n'.join(json.dumps(row, ensure_ascii=n % 2 == 0) for n, row in enumerate(rows)).encode()
    array = json.dumps(rows, ensure_ascii=False).encode()
    table = pa.table({'text': [row['text'] for row in rows], 'n': list(range(len(rows)))})
    columns = io.BytesIO()
    pq.write_table(table, columns, row_group_size=3)
    plain = TEXT.encode()

    def corpus(name: str, *seeds: bytes, share: float) -> Target:
        return Target(_reads_corpus(folder / name), seeds, place=str(folder / name), share=share)

    def labels(name: str, *seeds: bytes, share: float = 1.0) -> Target:
        return Target(_reads_table(folder / name), seeds, place=str(folder / name), share=share)

    pairs = [('我们 a', '他们"b', '1'), ('好', '不好', '0'), ('x\u2028y', '', '1')]
    tsv = 'text_a\ttext_b\tlabel\n' + ''.join('\t'.join(row) + '\n' for row in pairs)
    comma = 'text_a,text_b,label\r\n' + ''.join(
        f'"{a.replace(chr(34), chr(34) * 2)}",{b[:1]},{c}\n' for a, b, c in pairs
    )
    objects = [{'sentence1': a, 'sentence2': b, 'label': c, 'language': 'zh'} for a, b, c in pairs]
    jsonl = '\n'.join(json.dumps(row) for row in objects)
    entities = [
        {'text': '我们好', 'label': {'a': {'我们': [[0, 1]]}}},
        {'text': '我们好', 'label': [[0, 2, 'a'], {'start': 2, 'end': 3, 'label': 'b', 'entity': '好'}]},
        {'tokens': ['我', '们'], 'tags': ['B-a', 'I-a']},
    ]
    return {
        'txt': corpus('a.txt', plain, b'', share=2),
        'jsonl': corpus('a.jsonl', lines, share=1.5),
        'json': corpus('a.json', array, lines, share=1.5),
        'txt_gz': corpus('a.txt.gz', gzip.compress(plain, mtime=0), plain, share=1),
        'jsonl_zst': corpus('a.jsonl.zst', zstandard.compress(lines), lines, share=1),
        'parquet': corpus('a.parquet', columns.getvalue(), share=0.4),
        'tsv': labels('b.tsv', tsv.encode(), tsv.partition('\n')[2].encode(), share=1),
        'csv': labels('b.csv', comma.encode(), comma.replace(',', ';').encode(), share=1),
        'labelled_jsonl': labels('b.jsonl', jsonl.encode(), share=1),
        'labelled_json': labels('b.json', json.dumps(objects).encode(), share=1),
        'texts': _texts(folder / 'c.txt', vocabulary),
        'pairs': _pairs(folder / 'd.tsv', vocabulary, tsv),
        'tagged_txt': _tagged(
            folder / 't.txt', '我\tB-PER\n们\tI-PER\n\n好\tO\n', '我们/nr 好/o\n', '我\x02们\tB-a\x02I-a\n'
        ),
        'tagged_jsonl': _tagged(folder / 't.jsonl', *map(json.dumps, entities)),
        'choices': _choices(folder / 'm.json'),
        'squad': _questions(folder / 'q.json', vocabulary),
        'tokenizer': Target(_tokenizes(with_words), (plain, *map(str.encode, PARAGRAPHS)), (), share=2),
        'windows': Target(_packs(with_words), (plain, *map(str.encode, PARAGRAPHS)), (), share=1),
        'record': _record(folder),
        'manifest': _manifest(folder / 'corpus', with_words),
        'vocabulary': _vocabulary(folder / 'vocab.txt', with_words),
        'sidecar': _sidecar(folder / 'words.txt', with_words),
        'alignment': _alignment(folder),
        'word_vectors': _vectors(folder / 'vectors.txt'),
        'similar_words': _similar(folder / 'similar.txt', with_words),
        'command_line': _command_line(),
    }


def _adds_up(ledger: Ledger) -> None:
    for counts in ledger.units.values():
        assert counts.read == counts.kept + counts.dropped.total()


def _reads_corpus(path: Path) -> Callable[[bytes], None]:
    compress = {'.gz': lambda data: gzip.compress(data, 1, mtime=0), '.zst': zstandard.compress}.get(
        path.suffix
    )

    def run(data: bytes) -> None:
        if compress and data[:1] not in (b'\x1f', b'\x28'):  # what is damaged is what it holds
            data = compress(data)
        path.write_bytes(data)
        report = Report()
        for chunk in sources.plan(str(path), 300):
            for document in sources.read(chunk, report, 50):
                assert document.paragraphs and document.source.startswith(str(path))
                for paragraph in document.paragraphs:
                    assert paragraph == paragraph.strip() != '' and '\n' not in paragraph
                    paragraph.encode()
        for counts in (report.documents, report.paragraphs):
            assert counts.read == counts.kept + counts.dropped.total()

    return run


def _reads_table(path: Path) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        path.write_bytes(data)
        ledger = Ledger()
        found, _ = labelled.read(str(path), ledger=ledger)
        _adds_up(ledger)
        for example in found:
            (example.text_a + (example.text_b or '') + (example.label or '')).encode()
        if any(example.label is not None for example in found):
            names = labelled.discover_labels(found)
            labelled.label_index([example for example in found if example.label is not None], names)

    return run


DATA = ConfigDict({'text_columns': (), 'label_column': '', 'max_strings': 5})


def _texts(path: Path, vocabulary: Vocabulary) -> Target:
    def run(data: bytes) -> None:
        path.write_bytes(data)
        ledger = Ledger()
        texts = sentences.texts(str(path), DATA, DATA.max_strings, ledger)
        _adds_up(ledger)
        assert texts and len(set(texts)) == len(texts) <= 5
        lengths = mirror_bert.Mirrored(texts, vocabulary, 12, mirror_bert.Masks(2)).rows.lengths
        assert (lengths >= 2).all() and (lengths <= 12).all()

    return Target(run, ('\n'.join(PARAGRAPHS).encode(),), place=str(path), share=0.7)


def _pairs(path: Path, vocabulary: Vocabulary, tsv: str) -> Target:
    cut = segmenters.segmenter('jieba')

    def run(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            sentences.scored_pairs(str(path), DATA)
        with contextlib.suppress(ValueError):
            ledger = Ledger()
            rows = supervised_vectors.triplets(str(path), DATA, ledger)
            _adds_up(ledger)
            supervised_vectors.Triplets(rows, vocabulary, 12)
        ledger = Ledger()
        found = sentences.related_pairs(str(path), DATA, ledger)
        _adds_up(ledger)
        assert ledger.units['rows'].kept == len(found)
        for side in (0, 1):
            assert len({pair[side] for pair in found}) == len(found)
        mlctl.Translations(found, vocabulary, 12, cut)

    return Target(run, (tsv.encode(), '我们\twe\n好\tgood\n'.encode()), place=str(path), share=0.7)


def _questions(path: Path, vocabulary: Vocabulary) -> Target:
    first = {'id': 'Q1', 'question': '谁？', 'answers': [{'text': '北京大学', 'answer_start': 4}]}
    answers = [{'text': '系统', 'answer_start': -1}, {'text': '', 'answer_start': 0}]
    second = {'id': 'Q2', 'question': '什么？', 'answers': answers}
    squad = {'data': [{'paragraphs': [{'context': TEXT, 'qas': [first, second]}]}]}
    columns = {'text': ['风'], 'answer_start': [13]}
    table = [{'id': '1', 'context': TEXT, 'question': '谁？', 'answers': columns}]
    asked = [{'query_id': 'Q', 'query_text': '谁', 'answers': ['风']}]
    older = [{'context_id': 'C', 'context_text': TEXT, 'qas': asked}]

    def run(data: bytes) -> None:
        path.write_bytes(data)
        found, counts = datasets_squad.align(datasets_squad.read_questions(path))
        assert counts.total == sum(len(question.answers) for question in found)
        for question in found:
            for answer in question.answers:
                assert answer.start < 0 or question.context.startswith(answer.text, answer.start)
        assert len(datasets_squad.simplify(found)) == len(found)
        made = reading_windows.encode(found, vocabulary, 40, 9, 12)
        spans = reading_windows.targets(made, found)
        assert (spans >= 0).all() and (spans < made.total_length[:, None]).all()
        assert (made.total_length <= 40).all()
        for question, offsets in zip(found, made.offsets):
            assert (offsets >= 0).all() and (offsets <= len(question.context)).all()

    seeds = [json.dumps(layout, ensure_ascii=False).encode() for layout in (squad, table, older)]
    return Target(run, tuple(seeds), place=str(path), share=0.7)


def _tagged(path: Path, *seeds: str) -> Target:
    def run(data: bytes) -> None:
        path.write_bytes(data)
        ledger = Ledger()
        found = tagged.read(str(path), labelled=False, ledger=ledger)
        _adds_up(ledger)
        for text in found:
            text.text.encode()
            assert all(0 <= span.start < span.end <= len(text.text) for span in text.spans or ())
            assert all(map(str.strip, (span.type for span in text.spans or ())))

    return Target(run, tuple(seed.encode() for seed in seeds), place=str(path), share=0.7)


def _choices(path: Path) -> Target:
    one = {'question': '谁？', 'choice': ['我们', '他们'], 'answer': '我们'}
    blank = {'content': ['我#idiom000001#，#idiom000002#'], 'candidates': ['我们', '他们']}
    seeds = [json.dumps(value, ensure_ascii=False) for value in ([[['我们'], [one], '1']], one, blank)]

    def run(data: bytes) -> None:
        path.write_bytes(data)
        for question in choices.read(str(path), answered=False):
            ''.join([question.before, question.after or '', question.question, *question.choices]).encode()
            assert question.answer is None or 0 <= question.answer < len(question.choices) > 1

    return Target(run, tuple(seed.encode() for seed in seeds), place=str(path), share=0.7)


def _text_of(data: bytes) -> str:
    """What a reader would let through: no U+0000, no half characters."""
    return data.decode(errors='replace').replace('\0', ' ')


def _tokenizes(vocabulary: Vocabulary) -> Callable[[bytes], None]:
    tokenizer, pieces = Tokenizer(vocabulary), vocabulary.pieces()

    def run(data: bytes) -> None:
        text = _text_of(data)[:2000]
        stops = sorted({0, len(text), *(byte % (len(text) + 1) for byte in data[:20])})
        words = [text[first:last] for first, last in itertools.pairwise(stops)]
        encoded = tokenizer.encode(words)
        assert encoded.char_ids == vocabulary.wordpiece.encode(text, add_special_tokens=False).ids
        assert ''.join(tokenizer.join(words)) == text
        assert sum(encoded.word_char_len) == len(encoded.char_ids)
        assert sum(encoded.whole_word_tokens) == len(encoded.word_ids) == len(encoded.word_char_len)
        start = 0
        for row, length in zip(encoded.word_ids, encoded.word_char_len):
            spelled = pieces[row - vocabulary.base_size] if row >= vocabulary.base_size else (row,)
            assert tuple(encoded.char_ids[start : start + length]) == spelled
            start += length

    return run


def _packs(vocabulary: Vocabulary) -> Callable[[bytes], None]:
    tokenizer, cut = Tokenizer(vocabulary), segmenters.segmenter('jieba')
    pauses = windows.pause_ids(tokenizer)

    def run(data: bytes) -> None:
        paragraphs = [line.strip() for line in _text_of(data)[:2000].split('\n') if line.strip()]
        made = windows.encode_document(paragraphs, cut, tokenizer, pauses, *ROW)
        record_files.examples([window._asdict() for window in made.windows])
        for window in made.windows:
            assert len(window.char_ids) <= ROW[0] - 3 and len(window.word_ids) <= ROW[1] - 3
            assert len(window.sentence_words) >= 2 and window.sentence_words.sum() == len(window.word_ids)
            assert window.word_char_len.sum() == len(window.char_ids)
        tokens = sum(len(window.char_ids) for window in made.windows)
        whole = vocabulary.wordpiece.encode('\n'.join(paragraphs), add_special_tokens=False).ids
        assert not made.windows or tokens == len(whole)

    return run


def _record(folder: Path) -> Target:
    sound = {
        'char_ids': [5, 6, 7, 8, 300], 'word_ids': [9, 6], 'word_char_len': [2, 3],
        'sentence_words': [1, 1], 'whole_word_tokens': [1, 1],
    }  # fmt: skip
    path = folder / 'clower-train.array_record-00000-of-00001'
    make = loader.compiled(lambda found, _: {'ids': found['char_ids'].to_tensor()}, 1)

    def run(data: bytes) -> None:
        class Source:
            __getitems__ = staticmethod(lambda numbers: [data])

        split = record_source.RecordSource({path: 1}, Source())
        made, lengths = loader.made_of(split, make, np.zeros(1, int), np.zeros(1, int))
        assert made['ids'].shape[1] + 3 == lengths[0, 0] and (made['ids'] >= 0).all()

    return Target(
        run,
        tuple(record_files.examples([sound, sound | {'char_ids': [1, 2, 3, 4, 5]}])),
        place=str(path),
        share=0.5,
    )


def _manifest(corpus: Path, vocabulary: Vocabulary) -> Target:
    vocabulary.save(corpus / 'vocab.txt')
    with record_files.ShardWriter(corpus / 'shard') as writer:
        writer.write({name: [1, 1] for name in record_files.FEATURES})
    assert writer.shard
    rows, base = len(vocabulary), vocabulary.base_size
    manifest = {
        'char_length': 32,
        'word_length': 24,
        'records': {'train': 1, 'validation': 0},
        'tokens': {'char': 2, 'word': 2},
        'vocabulary': {'sha256': vocabulary.sha256(), 'size': rows, 'base_size': base},
    }
    listed = record_files.assemble(corpus, {'train': [writer.shard]})
    corpus_files.write_manifest(corpus, manifest, listed)
    path = corpus / corpus_files.MANIFEST
    sealed = path.read_bytes()

    def run(data: bytes) -> None:
        path.write_bytes(data)
        found = corpus_files.read_manifest(corpus)
        if corpus_files.check(corpus):
            assert json.loads(sealed) == found  # nothing that was changed is read

    return Target(run, (sealed, json.dumps(manifest).encode()), place=str(path), share=0.7)


def _vocabulary(path: Path, vocabulary: Vocabulary) -> Target:
    vocabulary.save(path)
    sidecar = path.with_suffix('.json').read_text('utf-8')

    def run(data: bytes) -> None:
        path.write_bytes(data)
        path.with_suffix('.json').write_text(sidecar, 'utf-8')
        assert Vocabulary.load(path).tokens == vocabulary.tokens

    return Target(run, (path.read_bytes(),), place=str(path), share=0.5)


def _sidecar(path: Path, vocabulary: Vocabulary) -> Target:
    vocabulary.save(path)
    sidecar = path.with_suffix('.json')

    def run(data: bytes) -> None:
        sidecar.write_bytes(data)
        Vocabulary.load(path)

    return Target(run, (sidecar.read_bytes(),), place=str(path.with_suffix('')), share=0.5)


def _alignment(folder: Path) -> Target:
    texts, links = folder / 'pairs.tsv', folder / 'links.txt'
    texts.write_text('我们\twe\n好\tgood\n', encoding='utf-8')

    def run(data: bytes) -> None:
        links.write_bytes(data)
        found = word_alignment.read_alignment(str(links), str(texts))
        for line in found.values():
            kept = word_alignment.one_to_one(line, 3, 3, 2, counts := Counter())
            assert len(kept) + counts.total() == len(line)

    return Target(run, (b'0-0 1-1\n0-0\n',), place=str(links), share=0.5)


def _vectors(path: Path) -> Target:
    def run(data: bytes) -> None:
        path.write_bytes(data)
        found = similar_words.read_vectors(path, {'我们': 0, '好': 1, 'a': 2})
        assert all(np.isfinite(vector).all() for vector in found.values())
        assert len({vector.shape for vector in found.values()}) <= 1

    return Target(run, ('2 3\n我们 1 2 3\n好 0.5 -1e-3 4\n'.encode(),), place=str(path), share=0.5)


def _similar(path: Path, vocabulary: Vocabulary) -> Target:
    def run(data: bytes) -> None:
        path.write_bytes(data)
        similar_words.pieces(similar_words.load(path, vocabulary), vocabulary)

    return Target(run, ('我们\t春天\n喜欢\t系统\n'.encode(),), place=str(path), share=0.5)


def _command_line() -> Target:
    """Strings as flags: read, or refused in one line."""
    here = os.getcwd()

    def run(data: bytes) -> None:
        arguments = [word.decode(errors='surrogateescape') for word in data.replace(b'\0', b'').split(b' ')]
        if any(word.startswith(('--flagfile', '-flagfile')) for word in arguments):
            return  # absl's own: reads any file
        values = flags.FlagValues()
        before, command_line.flags.FLAGS = command_line.flags.FLAGS, values
        argv = ['run.py', *arguments]
        config_flags.DEFINE_config_file('config', None, flag_values=values, lock_config=True, sys_argv=argv)
        os.chdir(ROOT)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
                warnings.catch_warnings(action='ignore', category=DeprecationWarning),  # ml_collections'
            ):
                command_line.parse(argv, 'About.')
        except SystemExit as error:
            if error.code != 0:
                raise
        finally:
            os.chdir(here)
            command_line.flags.FLAGS = before

    seeds = (
        b'--config=configs/pretrain.py:cpu --config.batch_size=8 --config.data.text=a,b',
        b'--config=configs/classify.py --config.optim.learning_rate=1e-4 --config.data.labels=a,b',
        b'--config=configs/mirror.py:sentence,drophead --config.seeds=3 --noconfig.eval_first',
        b'--config configs/tables.py --config.finetune.bq.optim.learning_rate=1 --config.tasks=bq',
        b'--config=configs/vectors.py:similarity --config.data.test=a --config.model.pooling=mean',
    )
    return Target(run, seeds, (SystemExit,), place='run.py', share=0.02)
