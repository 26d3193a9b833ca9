"""Files of labelled texts as tables: the rows, each with its place, and which column is which."""

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from etils import epath

from input_pipeline.datasets import hub
from input_pipeline.utils.json_values import one_line

# The names that columns have in the public data sets and their copies, compared in lower case. Where a file
# has several, the first listed here is used.
LABEL_NAMES = (
    *('label', 'gold_label', 'labels', 'y', 'category', 'class', 'class_label', 'target', 'is_duplicate'),
    *('score', 'label_text', '标签', '类别'),
)
PAIR_NAMES = (
    *(('text_a', 'text_b'), ('sentence1', 'sentence2'), ('premise', 'hypothesis'), ('premise', 'hypo')),
    *(('question1', 'question2'), ('query1', 'query2'), ('text1', 'text2'), ('sentence_a', 'sentence_b')),
    *(('sent1', 'sent2'), ('s1', 's2'), ('q1', 'q2'), ('句子1', '句子2'), ('query', 'title')),
)
# Of a text and another that means the same, where such are looked for, and of what contradicts them.
POSITIVE_NAMES = (
    *(('anchor', 'positive'), ('query', 'positive'), ('text', 'positive'), ('sent0', 'sent1')),
    ('sentence', 'positive'),
)
NEGATIVE_NAMES = ('negative', 'hard_negative', 'hard_neg')
NLI_LABELS = ('entailment', 'neutral', 'contradiction')
TEXT_NAMES = (
    *('text_a', 'text', 'sentence', 'review', 'content', 'comment', 'title', 'query', 'question'),
    *('sentence1', 'premise', 'text1', '文本', '内容', '句子', '评论', '标题'),
)
KEYS = '--config.data.text_columns and --config.data.label_column'
LONGEST_FIELD = (1 << 31) - 1  # characters of a .csv's field: a text may be longer than csv's own 131,072
LONGEST_NUMBER = 18  # characters: a longer one is a text (Python refuses to read 4,300 digits)
_EDGES = re.compile(r'^[\s\ufeff]+|[\s\ufeff]+$')  # a second byte-order mark is common
_HEADER_NAMES = frozenset(TEXT_NAMES).union(*PAIR_NAMES)
_TRIPLET_NAMES = frozenset(NEGATIVE_NAMES).union(*POSITIVE_NAMES)
# What a column of labels or scores of pairs has, and no text is: numbers, and the labels of inference.
_PAIR_LABEL = re.compile(rf'-?|-?\d+(\.\d+)?|contradictory|{"|".join(NLI_LABELS)}')


class Spec(NamedTuple):
    """What to read from a file. A column without a header has its number as its name: '1', '2', …

    text_columns: one, or the two of a pair; or, `joined`, several that make up one text, with a space between
        (of these only the first has to be there). Empty: found out.
    label_column: empty: found out.
    labelled: whether a file without a label column, or a row without a label, is refused.
    pair: whether there are two texts; None: as the file has it. Needed where `text_columns` is empty and the
        file might be understood either way.
    triplet: whether a pair may have a third text, a hard negative, in a column of its own.
    drop_labels: rows with these labels have no gold label; they are dropped and counted.
    label_names: a label of the file → what it is called from there on.
    languages: of a file with a column `language`, such as XNLI's, only these rows; the others are counted,
        each language by itself. Empty: all.
    problem_type: what labels are (`utils.problem_types`); '': found out; None: nobody asks, and lists of
        labels are refused.
    lists: whether a text may be a list, such as CSL's keywords, which are joined by spaces.
    marked: whether `target` of a row says which two spans of the text are meant, as in CLUEWSC2020.
    separator: what stands between several labels in one cell; '': nothing.
    """

    text_columns: tuple[str, ...] = ()
    label_column: str = ''
    joined: bool = False
    labelled: bool = False
    pair: bool | None = None
    triplet: bool = False
    drop_labels: tuple[str, ...] = ()
    label_names: Mapping[str, str] = MappingProxyType({})
    languages: tuple[str, ...] = ()
    problem_type: str | None = None
    separator: str = ''
    lists: bool = False
    marked: bool = False

    def header_names(self) -> tuple[str, ...]:
        """What, beside usual names, tells that a row is a header."""
        return (*self.text_columns, self.label_column, *(_TRIPLET_NAMES if self.triplet else ()))


class Table(NamedTuple):
    """`rows` are pairs of a place ('file:line', in a JSON array 'file:object n') and a dict of the columns.

    Without a header (`named` is False) the columns are called '1', '2', … `blank_lines` were skipped.
    """

    path: str
    columns: tuple[str, ...]
    rows: list[tuple[str, dict[str, Any]]]
    named: bool = True
    blank_lines: int = 0


def table(path: str, names: tuple[str, ...] = ()) -> Table:
    """Reads .tsv and .txt (tabs; quotation marks are text), .csv (RFC 4180, but ; may stand for the comma;
    where every line has tabs, as a .tsv), .jsonl and .json (an object on each line, or one array), or
    'hf:NAME' (see `hub.fetch`).

    UTF-8, with or without a byte-order mark; lines end with LF or CRLF, and nothing else ends a line. The
    first row of a file without keys is a header if it holds one of `names`, or a usual name of a text column
    and no number.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: with file and line: not UTF-8, a character U+0000, a row with too many or too few columns,
            broken quotation or JSON, a column twice; or the file is empty, has no row, or an unknown suffix.
    """
    suffix = path[path.rfind('.') :].lower()
    if hub.is_name(path):
        rows = hub.fetch(path)
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        result = Table(path, columns, [(f'{path}:row {number}', row) for number, row in enumerate(rows, 1)])
    elif suffix in ('.tsv', '.txt'):
        result = _delimited(path, _tab_separated(read_text(path)), 'write a space for a tab', names)
    elif suffix == '.csv':
        text = read_text(path)
        tabs = {line.count('\t') for line in text.split('\n') if line.strip()}
        if len(tabs) == 1 and tabs != {0}:
            result = _delimited(path, _tab_separated(text), 'write a space for a tab', names)
        else:
            mark = _separator(text)
            name = 'comma' if mark == ',' else 'semicolon'
            advice = f'a text with a {name} needs "quotation marks"'
            result = _delimited(path, _comma_separated(path, text, mark), advice, names)
    elif suffix in ('.json', '.jsonl'):
        result = _objects(path, read_text(path))
    else:
        raise ValueError(f'{path}: a file of labelled texts is .tsv, .txt, .csv, .json or .jsonl')
    if not result.rows:
        raise ValueError(f'{path} has no rows{": only a header" if result.columns else ""}')
    return result


def read_text(path: str) -> str:
    """The file's text without a byte-order mark.

    Raises ValueError, with file and line, where it is not UTF-8, holds a character U+0000, or is empty.
    """
    data = epath.Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise ValueError(f'{path}:{line}: this is not UTF-8{_encoding_hint(data)}') from error
    if '\0' in text:
        line = text.count('\n', 0, text.index('\0')) + 1
        raise ValueError(f'{path}:{line}: holds the character U+0000: damaged, binary, or UTF-16')
    if not text.strip():
        raise ValueError(f'{path} is empty')
    return text


def _encoding_hint(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ' but UTF-16; convert it: iconv -f UTF-16 -t UTF-8 FILE'
    try:
        data.decode('gb18030')
    except UnicodeDecodeError:
        return '; the file is damaged there, or in another encoding'
    return '; it may be GB18030 (GBK): iconv -f GB18030 -t UTF-8 FILE'


def _tab_separated(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields); no fields for a blank line."""
    for number, line in enumerate(text.removesuffix('\n').split('\n'), 1):
        line = line.removesuffix('\r')
        yield number, line.split('\t') if '\t' in line or line.strip() else []


def _separator(text: str) -> str:
    """What separates the columns of a .csv: the comma, or the semicolon that spreadsheets write where numbers
    have a decimal comma. It gives all rows as many columns, two or more; else the first row more of them."""
    if ';' not in text.partition('\n')[0]:
        return ','
    first = {}
    for mark in ',;':
        numbers = []
        with contextlib.suppress(csv.Error):  # who reads the file says what is wrong with it, and where
            numbers += [len(row) for row in _rows(text, mark) if row]
            if numbers[0] > 1 and len(set(numbers)) == 1:
                return mark
        first[mark] = numbers[0] if numbers else 0
    return max(first, key=first.__getitem__)


def _rows(text: str, mark: str, strict: bool = False) -> Any:  # csv's reader, whose class is not public
    """The rows of a text whose fields may be of any length, which csv is told for the process as a whole."""
    csv.field_size_limit(LONGEST_FIELD)
    return csv.reader(io.StringIO(text, newline='\n'), delimiter=mark, strict=strict)


def _comma_separated(path: str, text: str, mark: str) -> Iterator[tuple[int, list[str]]]:
    """The same, with `mark` for the comma; a row may go over several lines, and its number is the first's."""
    reader = _rows(text, mark, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f'{path}:{number}: the row that begins here is not csv ({error}); '
                'a text that holds a quotation mark is written "…""…"'
            ) from error
        yield number, fields if len(fields) > 1 or any(map(str.strip, fields)) else []


def _delimited(
    path: str, lines: Iterable[tuple[int, list[str]]], advice: str, names: tuple[str, ...]
) -> Table:
    rows: list[tuple[str, dict[str, Any]]] = []
    columns: tuple[str, ...] = ()
    listed = ''
    named, blank_lines = False, 0
    for number, fields in lines:
        if not fields:
            blank_lines += 1
            continue
        if not columns:
            columns, named = _header(fields, names)
            listed = one_line(', '.join(columns))
            if len(set(columns)) < len(columns):
                raise ValueError(f'{path}:{number}: the header names a column twice: {listed}')
            if named:
                continue
        if len(fields) != len(columns):
            raise ValueError(
                f'{path}:{number}: {len(fields)} columns where the file has {len(columns)} '
                f'({listed}), in the row that begins {chr(9).join(fields)[:40]!r}; {advice}'
            )
        rows.append((f'{path}:{number}', dict(zip(columns, fields))))
    return Table(path, columns, rows, named, blank_lines)


def _header(fields: list[str], names: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """The columns' names, and whether it is the first row that names them."""
    cells = tuple(map(clean, fields))
    usual = any(cell.lower() in _HEADER_NAMES for cell in cells) and not any(map(is_number, cells))
    if usual or any(cell and cell in names for cell in cells if not is_number(cell)):
        return cells, True
    return tuple(str(position + 1) for position in range(len(fields))), False


def clean(text: str) -> str:
    """The text without white space and byte-order marks at its ends."""
    return _EDGES.sub('', text)


def is_number(text: str) -> bool:
    """Whether the text is an integer, of no more digits than anybody counts with."""
    return len(text) <= LONGEST_NUMBER and text.removeprefix('-').isdecimal()


def _objects(path: str, text: str) -> Table:
    if text.lstrip().startswith('['):
        array = _parse(path, 1, text)
        numbered = [(f'{path}:object {number}', row) for number, row in enumerate(array, 1)]
        blank_lines = 0
    else:
        lines = text.removesuffix('\n').split('\n')
        numbered = [
            (f'{path}:{number}', _parse(path, number, line))
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
        blank_lines = len(lines) - len(numbered)
    for where, row in numbered:
        if not isinstance(row, dict):
            raise ValueError(f'{where}: {{"text": …, "label": …}} is expected, not {str(row)[:40]!r}')
    columns = tuple(dict.fromkeys(key for _, row in numbered for key in row))
    return Table(path, columns, numbered, blank_lines=blank_lines)


def _parse(path: str, number: int, text: str) -> Any:
    """The JSON value of a text that begins on line `number`."""
    try:
        return json.loads(text, strict=False)  # control characters in strings are common, and harmless
    except (ValueError, RecursionError) as error:
        line = number + getattr(error, 'lineno', 1) - 1
        raise ValueError(
            f'{path}:{line}: this is not JSON ({error}); one object a line, or one array, is expected'
        ) from error


def row_id(row: Mapping[str, Any]) -> int | str | None:
    """What a file calls a row, in its column `id`; None where it does not."""
    name = row.get('id')
    return name if type(name) is int or isinstance(name, str) and name else None


# Which column is which


def roles(table: Table, spec: Spec) -> tuple[tuple[str, ...], str]:
    """The text columns and the label column ('' if there is none).

    What the spec leaves open is found by the columns' names; without a header by their number and by what
    they hold: a first column of growing numbers is an id, and of the first and the last column the label is
    the one that is ASCII, else the one that has numbers, else the one with fewer and shorter values.

    Raises:
        ValueError: a column is missing, or which is which cannot be told; the message names the columns and
            the config keys to set.
    """
    texts, label = _columns_by_name(table, spec)
    required = spec.text_columns[:1] if spec.joined else spec.text_columns
    missing = [column for column in (*required, spec.label_column) if column and column not in table.columns]
    if missing:
        raise _unclear(table, f'there is no column {", ".join(missing)}')
    texts, label = spec.text_columns or texts, spec.label_column or label
    if not texts:
        raise _unclear(table, 'which column holds the text is unclear')
    if spec.joined:
        texts = tuple(column for column in texts if column in table.columns)
    elif len(texts) > (3 if spec.triplet else 2) or spec.pair and len(texts) < 2:
        expected = f'two {"or three " * spec.triplet}texts are' if spec.pair else 'one or two texts are'
        raise _unclear(table, f'{expected} expected, not {len(texts)} ({", ".join(texts)})')
    if spec.labelled and not label:
        raise _unclear(table, 'there is no label column')
    return texts if spec.joined or spec.pair is not False else texts[:1], label


def _unclear(table: Table, problem: str) -> ValueError:
    kind = 'its columns are' if table.named else 'it has no header; its columns, by number, are'
    columns = ', '.join(table.columns)
    return ValueError(one_line(f'{table.path}: {problem}; {kind}: {columns}; set {KEYS}'))


def _columns_by_name(table: Table, spec: Spec) -> tuple[tuple[str, ...], str]:
    """The same, from the names; without a header, from the number of columns and what they hold."""
    if not table.named:
        return _columns_by_position(table, spec)
    given = (*spec.text_columns, spec.label_column, 'target' * spec.marked)
    names = {column.lower(): column for column in reversed(table.columns) if column not in given}
    label = next((names[name] for name in LABEL_NAMES if name in names), '')
    wanted: list[tuple[str, ...]] = [*POSITIVE_NAMES] if spec.triplet else []
    wanted += [] if spec.pair is False else [*PAIR_NAMES]
    wanted += [(name,) for name in TEXT_NAMES]
    texts = next((candidate for candidate in wanted if names.keys() >= set(candidate)), ())
    if spec.triplet and len(texts) > 1:
        texts += tuple(name for name in NEGATIVE_NAMES if name in names)[:1]
    return tuple(names[name] for name in texts), label


def _columns_by_position(table: Table, spec: Spec) -> tuple[tuple[str, ...], str]:
    columns = list(table.columns)
    if len(columns) > 2 and not spec.text_columns and _is_running_number(table, columns[0]):
        del columns[0]
    if spec.text_columns:
        rest = [column for column in columns if column not in spec.text_columns]
        return spec.text_columns, rest[0] if len(rest) == 1 else ''
    if len(columns) == 1 or len(columns) == 2 and spec.pair:
        return tuple(columns), ''
    if len(columns) == 3 and spec.triplet and not spec.label_column:
        label = next((end for end in (columns[-1], columns[0]) if _has_pair_labels(table, end)), '')
        return tuple(column for column in columns if column != label), label
    if len(columns) == 2 or len(columns) == 3 and spec.pair is not False:
        ends = columns[-1], columns[0]
        label = spec.label_column or min(ends, key=lambda column: _unlikeness(table, column))
        return tuple(column for column in columns if column != label), label
    return (), ''


def _is_running_number(table: Table, column: str) -> bool:
    values = [clean(row[column]) for _, row in table.rows]
    return all(map(is_number, values)) and all(int(a) < int(b) for a, b in zip(values, values[1:]))


def _has_pair_labels(table: Table, column: str) -> bool:
    return all(_PAIR_LABEL.fullmatch(clean(row[column])) for _, row in table.rows)


def _unlikeness(table: Table, column: str) -> tuple[bool, bool, int]:
    """How little a column looks like labels, which are ASCII where texts are not, numbers, few and short."""
    values = {clean(row[column]) for _, row in table.rows}
    return (
        not all(map(str.isascii, values)),
        not all(map(is_number, values)),
        sum(map(len, values)),
    )
