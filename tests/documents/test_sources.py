"""Every way that text comes in: the chunks, the formats, and everything that can be wrong with a file."""

import gzip
import json
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from input_pipeline.documents import readers
from input_pipeline.documents.report import Report, locate
from input_pipeline.documents.sources import plan, read

# Two documents; the first has two paragraphs.
PARAGRAPHS = [['春眠不觉晓，', '处处闻啼鸟。'], ['夜来风雨声。']]
TEXTS = ['\n'.join(document) for document in PARAGRAPHS]


def read_all(pattern, report: Report | None = None, **options) -> list:
    """The documents of all chunks, in order."""
    report = Report() if report is None else report
    max_chars = options.pop('max_document_chars', 1_000_000)
    return [
        document for chunk in plan(str(pattern), **options) for document in read(chunk, report, max_chars)
    ]


def paragraphs(pattern, report: Report | None = None, **options) -> list[list[str]]:
    return [document.paragraphs for document in read_all(pattern, report, **options)]


def compress(path: Path, data: bytes) -> None:
    with pa.CompressedOutputStream(str(path), {'.gz': 'gzip', '.zst': 'zstd'}[path.suffix]) as stream:
        stream.write(data)


def jsonl(rows: list) -> str:
    return ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)


# The cuts


def documents_of(data: bytes) -> list[tuple[list[str], int]]:
    """The definition of a .txt, on the whole of it: (paragraphs, first line's number) of each document."""
    documents, fresh = [], True
    for number, line in enumerate(data.decode().removeprefix('\ufeff').split('\n'), 1):
        if not line.strip():
            fresh = True
        elif fresh:
            documents.append(([line.strip()], number))
            fresh = False
        else:
            documents[-1][0].append(line.strip())
    return documents


LINES = st.lists(st.sampled_from(['春眠', 'a', '处处闻啼鸟。 x', '', '', ' ', '\u3000', '\t']), max_size=12)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, newline=st.sampled_from(['\n', '\r\n']), bom=st.booleans(), last_newline=st.booleans())
def test_every_cut_of_a_txt_gives_the_same_documents(tmp_path, lines, newline, bom, last_newline):
    data = ('\ufeff' * bom + newline.join(lines) + newline * last_newline).encode()
    path = tmp_path / 'a.txt'
    path.write_bytes(data)
    expected = [(document, f'{path}:{number}') for document, number in documents_of(data)]
    for chunk_bytes in range(1, len(data) + 2):
        found = [(d.paragraphs, locate(d.source)) for d in read_all(path, chunk_bytes=chunk_bytes)]
        assert found == expected, chunk_bytes


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, newline=st.sampled_from(['\n', '\r\n']), bom=st.booleans(), last_newline=st.booleans())
def test_every_cut_of_a_jsonl_gives_the_same_documents(tmp_path, lines, newline, bom, last_newline):
    rows = [json.dumps({'text': line}) if line.strip() else line for line in lines]
    data = ('\ufeff' * bom + newline.join(rows) + newline * last_newline).encode()
    path = tmp_path / 'a.jsonl'
    path.write_bytes(data)
    expected = [([line.strip()], f'{path}:{n}') for n, line in enumerate(lines, 1) if line.strip()]
    for chunk_bytes in range(1, len(data) + 2):
        found = [(d.paragraphs, locate(d.source)) for d in read_all(path, chunk_bytes=chunk_bytes)]
        assert found == expected, chunk_bytes


def test_every_cut_counts_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, 'MAX_LINE_BYTES', 20)
    lines = [b'one', b'\xff\xfe', b'', b'nul \0', b'', b'two', b'x' * 50, b'three', b'', b'x' * 21, b'']
    for suffix, data in [
        ('.txt', b'\n'.join(lines)),
        ('.jsonl', b'\n'.join(lines + [b'{"text": "ok"}', b'[1]'])),
    ]:
        path = tmp_path / f'a{suffix}'
        path.write_bytes(data)
        whole = Report()
        expected = paragraphs(path, whole)
        assert whole.counts['line_too_long'] == 2
        for chunk_bytes in range(1, len(data)):
            cut = Report()
            assert paragraphs(path, cut, chunk_bytes=chunk_bytes) == expected
            assert cut.counts == whole.counts
        one_by_one = Report()
        for chunk in plan(str(path), chunk_bytes=7):
            report = Report()
            list(read(chunk, report))
            one_by_one.merge(report)
        assert one_by_one.to_json() == whole.to_json()


def test_chunks_cover_each_file_once_in_sorted_order(tmp_path):
    for name, size in [('b.txt', 25), ('a.txt', 10), ('c.txt', 0)]:
        (tmp_path / name).write_bytes(b'x' * size)
    chunks = plan(str(tmp_path / '*.txt'), chunk_bytes=10)
    assert [(Path(c.path).name, c.start, c.end) for c in chunks[:4]] == [
        ('a.txt', 0, 10),
        ('b.txt', 0, 10),
        ('b.txt', 10, 20),
        ('b.txt', 20, 25),
    ]
    assert [chunk.index for chunk in chunks] == [0, 1, 2, 3, 4]
    assert sum(chunk.num_bytes for chunk in chunks) == 35


# The formats


@pytest.fixture
def every_format(tmp_path) -> Path:
    """A folder with the same two documents in each format."""
    rows = [{'title': '题', 'text': text} for text in TEXTS]
    plain = {
        'txt': '\n\n'.join(TEXTS),
        'jsonl': jsonl(rows),
        'json': json.dumps(rows, ensure_ascii=False, indent=2),
    }
    for kind, content in plain.items():
        (tmp_path / f'plain.{kind}').write_text(content, encoding='utf-8')
        for suffix in ('gz', 'zst'):
            compress(tmp_path / f'packed.{kind}.{suffix}', content.encode())
    pq.write_table(pa.table({'id': [1, 2], 'text': TEXTS}), tmp_path / 'table.parquet', row_group_size=1)
    return tmp_path


def test_every_format_gives_the_same_documents(every_format):
    files = sorted(every_format.iterdir())
    assert len(files) == 10
    for file in files:
        report = Report()
        assert paragraphs(file, report) == PARAGRAPHS, file
        assert not report.counts
    assert len(plan(str(every_format / 'table.parquet'))) == 2  # one per row group
    assert paragraphs(every_format) == PARAGRAPHS * 10


def test_sources_name_lines_objects_and_rows(every_format):
    def places(name):
        return [
            document.source.removeprefix(f'{every_format}/') for document in read_all(every_format / name)
        ]

    assert places('packed.txt.gz') == ['packed.txt.gz:1', 'packed.txt.gz:4']
    assert places('plain.jsonl') == ['plain.jsonl:1', 'plain.jsonl:2']
    assert places('plain.json') == ['plain.json:object 1', 'plain.json:object 2']
    assert places('table.parquet') == ['table.parquet:row 1', 'table.parquet:row 2']


def test_text_field_is_the_users(tmp_path):
    (tmp_path / 'a.json').write_text('\ufeff[{"title": "题", "content": "文"}]', encoding='utf-8')
    (tmp_path / 'b.jsonl').write_text('{"title": "题", "content": "文"}', encoding='utf-8')
    pq.write_table(pa.table({'content': pa.array(['文']).dictionary_encode()}), tmp_path / 'c.parquet')
    assert paragraphs(tmp_path, text_field='content') == [['文']] * 3


# As WuDao's files have it: one array, an object of many fields on several lines.
WUDAO = [
    {'id': 1, 'uniqueKey': 'a', 'titleUkey': 'b', 'dataType': '百科', 'title': '春晓', 'content': text}
    for text in TEXTS
]


def test_fields_with_usual_names_are_found(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(WUDAO, ensure_ascii=False, indent=4), encoding='utf-8')
    assert [chunk.text_fields for chunk in plan(str(tmp_path))] == [('content',)]
    assert paragraphs(tmp_path) == PARAGRAPHS
    # Each file has its own; a usual name further up the list comes first, in either case.
    rows = [{'title': '题', 'Content': None, 'Text': '文'}]
    (tmp_path / 'b.jsonl').write_text(jsonl([{'title': '题'}] * 3 + rows), encoding='utf-8')
    (tmp_path / 'c.txt').write_text('文', encoding='utf-8')
    pq.write_table(pa.table({'id': [1], '正文': ['文']}), tmp_path / 'd.parquet')
    fields = [chunk.text_fields for chunk in plan(str(tmp_path))]
    assert fields == [('content',), ('Text',), (), ('正文',)]
    assert paragraphs(tmp_path) == [*PARAGRAPHS, ['文'], ['文'], ['文']]


def test_several_fields_make_one_document(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(WUDAO), encoding='utf-8')
    (tmp_path / 'b.jsonl').write_text(
        jsonl([{'title': None, 'content': '文'}, {'title': 5, 'content': '文'}, {'title': '题'}, {'id': 1}])
    )
    pq.write_table(pa.table({'content': ['文', None], 'title': ['题', None]}), tmp_path / 'c.parquet')
    report = Report()
    assert paragraphs(tmp_path, report, text_field='title, content') == [
        *(['春晓', *document] for document in PARAGRAPHS),
        *(['文'], ['文'], ['题'], ['题', '文']),
    ]
    assert report.to_json() == {
        'no_text_field': {'count': 2, 'examples': [f'{tmp_path}/b.jsonl:4', f'{tmp_path}/c.parquet:row 2']},
        'text_not_string': {'count': 1, 'examples': [f'{tmp_path}/b.jsonl:2']},
    }


@pytest.mark.parametrize('name', ['a.json', 'a.jsonl', 'a.json.gz', 'a.parquet'])
def test_a_field_that_is_not_there_is_refused_before_anything_is_read(tmp_path, name):
    """The message has the fields that there are, and the option that names one."""
    rows = [{'id': 1, 'headline': '题', 'story': '文'}]
    if name == 'a.parquet':
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        data = (jsonl(rows) if name == 'a.jsonl' else json.dumps(rows)).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith('.gz') else data)
    there = r'fields are: id, headline, story\..*--text_field \(of a run: --config.data.text_field\)'
    with pytest.raises(ValueError, match=rf'{name} has no field with a usual name; its {there}'):
        plan(str(tmp_path))
    with pytest.raises(ValueError, match=rf'{name} has no field text; its {there}'):
        plan(str(tmp_path), text_field='text')
    assert paragraphs(tmp_path, text_field='story') == [['文']]


def test_a_field_that_only_some_files_have_is_said(tmp_path, caplog):
    (tmp_path / 'a.jsonl').write_text('{"content": "文"}')
    assert paragraphs(tmp_path, text_field='title,content') == [['文']]
    assert 'a.jsonl: no field title; it has content' in caplog.text


def test_the_fields_are_those_of_the_first_objects(tmp_path):
    """A file without a sound object there is read as ever."""
    (tmp_path / 'a.jsonl').write_text('x\n' * readers.FIRST_RECORDS + '{"text": "文"}\n')
    report = Report()
    assert paragraphs(tmp_path, report) == [['文']]
    assert report.counts == {'json_invalid': readers.FIRST_RECORDS}
    (tmp_path / 'a.jsonl').write_text('{"id": 1}\n' * readers.FIRST_RECORDS + '{"text": "文"}\n')
    with pytest.raises(ValueError, match='a.jsonl has no field with a usual name; its fields are: id.'):
        plan(str(tmp_path))


def test_objects_on_lines_may_be_named_json(tmp_path):
    (tmp_path / 'a.json').write_text('\ufeff\n' + jsonl(WUDAO), encoding='utf-8')
    assert [document.source for document in read_all(tmp_path)] == [f'{tmp_path}/a.json:{n}' for n in (2, 3)]
    assert paragraphs(tmp_path, chunk_bytes=10) == PARAGRAPHS


def test_patterns(every_format):
    nested = every_format / 'more' / 'deep'
    nested.mkdir(parents=True)
    (nested / 'd.TXT').write_text('丁')
    (nested / '.hidden.txt').write_text('不可见')
    (every_format / 'README.md').write_text('not text to learn from')
    names = [
        Path(chunk.path).name for chunk in plan(f'{every_format}/more, {every_format}/plain.*,{nested}/*')
    ]
    assert names == [
        'd.TXT',
        'plain.json',
        'plain.jsonl',
        'plain.txt',
    ]  # once each, in the order of the paths
    assert (
        len(plan(f'{every_format}/**/*.[tT]*', text_field='text')) == 2 + 2
    )  # table.parquet is not among them
    assert len(plan(str(every_format))) == 12


def test_concatenated_archives_are_read_to_the_end(tmp_path):
    (tmp_path / 'a.txt.gz').write_bytes(gzip.compress('一\n\n'.encode()) + gzip.compress('二\n'.encode()))
    assert paragraphs(tmp_path) == [['一'], ['二']]


def test_zeros_after_an_archive_are_no_part_of_it(tmp_path):
    """Tapes and block devices leave them, between members too."""
    first, second = (gzip.compress(f'{text}\n\n'.encode()) for text in '一二')
    for zeros in (1, 512, 100_000):
        (tmp_path / 'a.txt.gz').write_bytes(first + b'\0' * zeros + second + b'\0' * zeros)
        assert paragraphs(tmp_path) == [['一'], ['二']]
    (tmp_path / 'a.txt.gz').write_bytes(first + b'\0\0something else')
    with pytest.raises(ValueError, match='truncated or damaged'):
        paragraphs(tmp_path)
    damaged = bytearray(first)
    damaged[-8] ^= 1  # of the checksum
    (tmp_path / 'a.txt.gz').write_bytes(damaged)
    with pytest.raises(ValueError, match='truncated or damaged'):
        paragraphs(tmp_path)


def test_zstandard_with_a_long_window(tmp_path):
    """Of 1 GiB, as zstd --long=30 writes it: the size is not known beforehand, so the window is not cut."""
    noise = ''.join(map(chr, np.random.default_rng(0).integers(0x4E00, 0x9FA5, 100_000)))
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=30)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    data = compressor.compress(f'{noise}\n\n'.encode()) + compressor.flush()
    with pytest.raises(zstandard.ZstdError, match='too much memory'):
        zstandard.ZstdDecompressor().decompressobj().decompress(data)
    # Frames one after another, one of them to be skipped, as parallel compressors write them.
    skipped = b'\x50\x2a\x4d\x18\x04\0\0\0abcd'
    (tmp_path / 'a.txt.zst').write_bytes(skipped + data + skipped + zstandard.compress('二\n'.encode()))
    assert paragraphs(tmp_path) == [[noise], ['二']]
    (tmp_path / 'a.txt.zst').write_bytes(data[:-1])
    with pytest.raises(ValueError, match='truncated or damaged'):
        paragraphs(tmp_path)


def test_tfds(tmp_path):
    tfds = pytest.importorskip('tensorflow_datasets')
    text = tfds.features.Text()

    class Poems(tfds.core.GeneratorBasedBuilder):
        VERSION = '1.0.0'
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='zh')]

        def _info(self):
            features = tfds.features.FeaturesDict({'text': text, 'title': text})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {'train': enumerate({'text': text, 'title': '题'} for text in TEXTS)}

        def _generate_examples(self):
            raise NotImplementedError

    Poems(data_dir=tmp_path, config='zh').download_and_prepare()
    tfds.core.add_data_dir(tmp_path)
    assert paragraphs('tfds:poems/zh') == PARAGRAPHS
    with pytest.raises(ValueError, match='no field body; its fields are: .*text'):
        plan('tfds:poems/zh', text_field='body')
    with pytest.raises(ValueError, match='tfds:novels: no TFDS data set.*tfds build novels.*TFDS_DATA_DIR'):
        plan('tfds:novels')


# What can be wrong


def test_bad_lines_are_dropped_and_counted(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes(
        '第一行\n'.encode() + '国标'.encode('gb18030') + b'\nn\0l\n' + '第四行\n\n'.encode() + b'\xff\n'
    )
    report = Report()
    assert paragraphs(path, report) == [['第一行', '第四行']]
    assert report.to_json() == {
        'empty_document': {'count': 1, 'examples': [f'{path}:6']},
        'not_utf8': {'count': 2, 'examples': [f'{path}:2', f'{path}:6']},
        'nul': {'count': 1, 'examples': [f'{path}:3']},
    }


def test_bad_objects_are_dropped_and_counted(tmp_path):
    lines = [
        '{"text": "好"}',
        '{"text": "好"',
        '[1, 2]',
        '{"body": "好"}',
        '{"text": null}',
        '{"text": ["好"]}',
        '{"text": " \\n "}',
        '{"text": "a\\u0000\\nb\\ud800\\nc\td"}',
        '[' * 100_000,
    ]
    path = tmp_path / 'a.jsonl'
    path.write_text('\n'.join(lines), encoding='utf-8')
    report = Report()
    assert paragraphs(path, report) == [['好'], ['c\td']]
    assert report.to_json() == {
        'empty_document': {'count': 1, 'examples': [f'{path}:7']},
        'json_invalid': {'count': 3, 'examples': [f'{path}:{line}' for line in (2, 3, 9)]},
        'no_text_field': {'count': 2, 'examples': [f'{path}:4', f'{path}:5']},
        'not_utf8': {'count': 1, 'examples': [f'{path}:8']},
        'nul': {'count': 1, 'examples': [f'{path}:8']},
        'text_not_string': {'count': 1, 'examples': [f'{path}:6']},
    }
    array = tmp_path / 'b.json'
    array.write_text('["x", {"body": "好"}, {"text": 1.5}, {"text": "好"}]', encoding='utf-8')
    report = Report()
    assert paragraphs(array, report) == [['好']]
    assert report.counts == {'json_invalid': 1, 'no_text_field': 1, 'text_not_string': 1}


def test_bad_rows_are_dropped_and_counted(tmp_path):
    raw = pa.array(['好'.encode(), b'\xff', None, b''], pa.binary())
    pq.write_table(pa.table({'text': raw.view(pa.string()), 'number': [1, 2, 3, 4]}), tmp_path / 'a.parquet')
    report = Report()
    assert paragraphs(tmp_path, report) == [['好']]
    assert report.counts == {'not_utf8': 1, 'no_text_field': 1, 'empty_document': 2}
    report = Report()
    assert paragraphs(tmp_path, report, text_field='number') == []
    assert report.counts == {'text_not_string': 4}


@pytest.mark.parametrize('name', ['a.txt', 'a.jsonl', 'a.json', 'a.txt.gz', 'a.jsonl.zst'])
def test_an_empty_file_is_counted(tmp_path, name):
    (tmp_path / name).touch()
    report = Report()
    assert paragraphs(tmp_path, report) == []
    assert report.to_json() == {'empty_document': {'count': 1, 'examples': [f'{tmp_path / name}:1']}}


def test_a_line_of_10_mb_is_one_paragraph(tmp_path):
    line = '长' * ((10 << 20) // 3)
    (tmp_path / 'a.txt').write_text(f'短\n{line}\n短\n', encoding='utf-8')
    report = Report()
    assert paragraphs(tmp_path, report, chunk_bytes=1 << 20) == [['短'], [line], ['短']]
    assert report.counts == {'document_cut': 1}


def test_a_line_over_the_limit_is_skipped(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'a\n' + b'x' * (readers.MAX_LINE_BYTES + 1) + b'\nb\n')
    report = Report()
    assert paragraphs(tmp_path, report, chunk_bytes=1 << 22) == [['a', 'b']]
    assert report.to_json() == {'line_too_long': {'count': 1, 'examples': [f'{tmp_path}/a.txt:2']}}


def test_long_documents_are_cut_between_paragraphs(tmp_path):
    (tmp_path / 'a.txt').write_text('aaa\nbbb\nc\n\ndddd\n\n1234567\n', encoding='utf-8')
    report = Report()
    documents = read_all(tmp_path / 'a.txt', report, max_document_chars=6)
    assert [document.paragraphs for document in documents] == [['aaa', 'bbb'], ['c'], ['dddd'], ['1234567']]
    assert report.to_json() == {'document_cut': {'count': 1, 'examples': [f'{tmp_path}/a.txt:1']}}


@pytest.mark.parametrize('suffix', ['.txt.gz', '.txt.zst', '.jsonl.gz', '.jsonl.zst', '.json.gz'])
def test_a_truncated_archive_stops_the_job(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0x4E00, 0x9FA5, (2000, 500))
    texts = [''.join(map(chr, row)) for row in noise]
    content = {
        'txt': '\n'.join(texts),
        'jsonl': jsonl([{'text': text} for text in texts]),
        'json': json.dumps([{'text': text} for text in texts], ensure_ascii=False),
    }[suffix.split('.')[1]]
    path = tmp_path / f'a{suffix}'
    compress(path, content.encode())
    whole = path.read_bytes()
    assert len(paragraphs(path)) >= 1
    path.write_bytes(whole[:-100])
    with pytest.raises(
        ValueError, match=rf'{path}:(object )?\d{{3,4}}: .*truncated or damaged.*get it again'
    ):
        paragraphs(path)
    path.write_bytes(b'this is not compressed at all')
    with pytest.raises(ValueError, match=rf'{path} is no (gzip|zstd) file'):
        paragraphs(path)
    path.write_bytes(whole[:6])
    with pytest.raises(ValueError, match=rf'{path}, near its beginning: .*truncated or damaged'):
        paragraphs(path)


def test_a_broken_array_stops_the_job(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('[{"text": "a"}, {"text": "b"}, {"text": "c"', encoding='utf-8')
    with pytest.raises(ValueError, match=rf'{path}:object 2: .*truncated or damaged.*Expecting.*repair it'):
        paragraphs(path)
    path.write_text('{\n"text": "a"\n}\n', encoding='utf-8')
    with pytest.raises(ValueError, match=rf'{path} holds neither one array.*nor an object on each line'):
        paragraphs(path)


def test_an_array_is_read_as_lines_are(tmp_path, monkeypatch):
    """Lone surrogates, numbers of any length, tabs, bytes that are not UTF-8; blocks that end anywhere."""
    path = tmp_path / 'a.json'
    parts = [
        ' [{"text":"好\\ud800。是。"}, {"id": 1'.encode() + b'0' * 5000,
        b', "text": "a\tb\\ud83d\\ude00"} , 12.5e3,{"text": "\xff"},',
        '{"text":"[好],]"}\n]\n'.encode(),
    ]
    path.write_bytes(b''.join(parts))
    for block in (1, 2, 7, 1 << 20):
        monkeypatch.setattr(readers, '_BLOCK', block)
        report = Report()
        assert paragraphs(path, report) == [['a\tb😀'], ['[好],]']]
        assert report.counts == {'not_utf8': 2, 'empty_document': 2, 'json_invalid': 1}
    for broken in ('[1 2]', '[{},]', '[{}', '[{}] x', '["a]', '[' * 100_000):
        path.write_text(broken)
        with pytest.raises(ValueError, match=rf'^{path}[^\n]*truncated or damaged[^\n]*$'):
            paragraphs(path)


@pytest.mark.parametrize(('name', 'content'), [('a.txt', '\n \n'), ('a.jsonl', '\n'), ('a.json', '[ ]')])
def test_input_without_any_document_is_counted(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    pq.write_table(pa.table({'text': pa.array([], pa.string())}), tmp_path / 'b.parquet')
    report = Report()
    assert paragraphs(tmp_path, report) == []
    assert report.to_json() == {
        'empty_document': {'count': 2, 'examples': [f'{tmp_path / name}:1', f'{tmp_path}/b.parquet:1']}
    }


def test_a_file_by_several_names_is_read_once(tmp_path, monkeypatch):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'a.txt').write_text('一')
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere' / 'b.txt').write_text('二')
    (tmp_path / 'a' / 'linked').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'a' / 'above').symlink_to(tmp_path / 'a')
    monkeypatch.chdir(tmp_path)
    assert paragraphs(f'a/a.txt,{tmp_path}/a/*.txt') == [['一']]
    assert paragraphs('a') == [['一'], ['二']]


def test_a_damaged_parquet_stops_the_job(tmp_path):
    path = tmp_path / 'a.parquet'
    texts = [f'{n}' * 100 for n in range(2000)]
    pq.write_table(
        pa.table({'text': texts}), path, row_group_size=1000, compression='zstd', use_dictionary=False
    )
    whole = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    whole[start : start + 20] = b'\xff' * 20
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=rf'{path}:row 1000: .*damaged.*get it again'):
        paragraphs(path)
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=rf'{path}, near its beginning: .*truncated'):
        plan(str(path))


@pytest.mark.parametrize('keeps', [1, 2, 3])
def test_a_damaged_name_of_a_column(tmp_path, keeps):
    """It stands in a file several times; here one of them stays (the first is not looked at)."""
    path = tmp_path / 'a.parquet'
    pq.write_table(pa.table({'text': ['今天天气很好。'] * 9}), path, compression='none', use_dictionary=False)
    parts = path.read_bytes().split(b'text')
    names = [b'text' if place == keeps else b'\xee\xeext' for place in range(len(parts) - 1)]
    path.write_bytes(b''.join(part + name for part, name in zip(parts, [*names, b''])))
    with pytest.raises(ValueError, match=rf'^{path}(, near its beginning)?: ') as error:
        paragraphs(path)
    assert '\n' not in str(error.value)


def test_a_parquet_page_that_claims_2_gb_gets_none(tmp_path):
    path = tmp_path / 'a.parquet'
    pq.write_table(pa.table({'text': ['今天天气很好。'] * 9}), path, compression='none', use_dictionary=False)
    whole = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    # Thrift's PageHeader begins with three numbers, 0x15 before each: kind, bytes unpacked, bytes in here.
    assert whole[start : start + 3] == b'\x15\x00\x15'
    at = whole.index(b'\x15', start + 3) + 1
    while whole[at] & 0x80:
        del whole[at]
    whole[at : at + 1] = b'\xf6\xff\xff\xff\x0f'
    path.write_bytes(whole)
    status = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, ((int(status['VmSize'].split()[0]) << 10) + (1 << 30), limits[1]))
    try:
        with pytest.raises(ValueError, match=rf'{path}, near its beginning: .*Page was smaller'):
            paragraphs(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_input_that_matches_nothing(tmp_path):
    (tmp_path / 'a.pdf').touch()
    (tmp_path / 'empty').mkdir()
    known = r'\.txt, \.jsonl'
    for pattern, message in {
        f'{tmp_path}/*.txt': rf'{tmp_path}/\*\.txt.*matches no file.*{known}',
        f'{tmp_path}/missing.txt': rf'missing\.txt.*matches no file.*{known}',
        f'{tmp_path}': rf'{tmp_path}.*holds no file of a known format.*{known}.*a\.pdf',
        f'{tmp_path}/empty': rf'empty.*holds no file of a known format.*{known}',
        f'{tmp_path}/*.pdf': rf'a\.pdf is of no known format.*{known}',
        ' , ': rf'no input is given.*{known}',
    }.items():
        with pytest.raises(ValueError, match=message):
            plan(pattern)


def test_real_text(data_dir):
    """Chunks of any size read a real file as the definition does, and lose nothing."""
    path = data_dir / 'pretrain' / 'wiki_zh_sample.txt'
    expected = [document for document, _ in documents_of(path.read_bytes())]
    report = Report()
    assert paragraphs(path, report, chunk_bytes=99_991) == expected
    assert not report.counts
