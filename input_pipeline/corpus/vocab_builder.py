"""Makes a vocabulary from text: a base block of word pieces, then the most frequent words it does not have.

    python -m input_pipeline.build_vocab --input 'text/*.txt' --output vocab.txt

With --base_vocab, the vocab.txt of a Chinese BERT, the base block is that file, row for row, and a model can
start from that BERT's weights. With --num_chars beside it, the base block is the part of that file that the
text needs: so many Chinese characters (the paper: 5466), its other characters, digits, letters and frequent
pieces of Latin words; a model can start from the same weights, whose rows are taken by token. Without
--base_vocab, the base block is made from the text's own characters and its frequent Latin words.
"""

import argparse
import functools
import logging
import shlex
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from input_pipeline.corpus import base_vocabulary, beam_runner
from input_pipeline.corpus.manifest import advice, one_line
from input_pipeline.documents import readers, sources
from input_pipeline.documents.report import Report
from input_pipeline.text import segmenters
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.sentences import END, in_batches, segmented
from input_pipeline.text.vocabulary import PLAIN, Vocabulary, read_tokens, word_key
from input_pipeline.text.wordpiece import SPECIAL
from input_pipeline.utils.partial_folder import partial_folder, writing

log = logging.getLogger(__name__)

NUM_WORDS = 40_014  # arXiv 2208.10844, section 4.1
MIN_COUNT = 2  # what occurs once is as often a typing error, or a slip of the segmenter, as a word
MAX_COUNTED = 20_000_000  # distinct words in memory (about 3 GB) before those met once are forgotten
MAX_WORD_LENGTH = 100  # characters; BERT's tokenizer makes [UNK] of anything longer


@dataclass(frozen=True)
class _Job:
    segmenter: str
    hmm: bool
    work_dir: str


@dataclass
class _Counted:
    """Of one chunk; its counts of characters and words are in a file, for they are large."""

    problems: Report
    documents: int = 0
    characters: int = 0
    words: int = 0  # running words of two characters or more


def build(
    input: str,
    output: str | Path,
    base_vocab: str | Path | None = None,
    num_words: int = NUM_WORDS,
    num_chars: int | None = None,
    min_count: int = MIN_COUNT,
    segmenter: str = 'jieba',
    hmm: bool = True,
    beam: str | None = None,
    text_field: str = '',
    chunk_bytes: int = 16 << 20,
) -> Vocabulary:
    """Writes `output` (a .txt) and its sidecar (.json), and returns the vocabulary.

    Args:
      input: files, folders, globs or tfds:NAME, as `sources.plan` reads them.
      base_vocab: a BERT vocab.txt for the base block; None makes one of the special tokens, characters, ASCII
        letters and digits, and frequent Latin words.
      num_chars: characters of the base block: the most frequent. None: with `base_vocab` all of its rows,
        without it the paper's number. With both, the base block is a part of `base_vocab` in its order: so
        many Chinese characters, beside special tokens, all other characters of the text, ASCII letters and
        digits, and what the most frequent Latin words are spelled with.
      num_words: rows of the word block, at most: the most frequent words of two characters or more, equal
        counts in code point order. Words that the base block can only spell with [UNK] are left out.
      min_count: what occurs less often is no word of the word block, even where there is room.
      segmenter, hmm: see `segmenters.segmenter`.
      beam: Beam's pipeline options; None works in this process.
      text_field: where the text is in .json, .parquet and TFDS input, as `sources.plan` takes it.
      chunk_bytes: input that a worker takes at a time.

    The same input and settings make the same bytes for any number of workers.

    Raises:
      ValueError: settings that make no sense, a damaged file, or input without text.
      FileNotFoundError: `base_vocab` is missing.
      FileExistsError: `output` or its sidecar is there, and is none of our vocabularies.
    """
    output = Path(output)
    if output.suffix != '.txt':
        raise ValueError(f'the output {output} must end in .txt; its sidecar takes the same name with .json')
    if base_vocab is not None and output.resolve() == Path(base_vocab).resolve():
        raise ValueError(f'the output {output} is the base vocabulary itself; give it another name')
    if num_words < 0 or num_chars is not None and num_chars < 1:
        raise ValueError(f'num_words ({num_words}) must be 0 or more and num_chars ({num_chars}) 1 or more')
    if min_count < 1:
        raise ValueError(f'min_count is {min_count}; it must be 1, which takes every word, or more')
    _check_output(output)
    base = None if base_vocab is None else _read_base(base_vocab)
    description = segmenters.describe(segmenter, hmm)
    chunks = sources.plan(input, chunk_bytes, text_field)

    # Beside the output, because the workers of a cluster share that place with us.
    with partial_folder(output) as folder:
        work_dir = str(folder)
        count = functools.partial(_count_chunk, _Job(segmenter, hmm, work_dir))
        total = _Counted(Report())
        chars: Counter[str] = Counter()
        words: Counter[str] = Counter()
        forgotten = 0
        for chunk, counted in zip(
            chunks, beam_runner.run_chunks(count, chunks, work_dir, beam, 'counting words'), strict=True
        ):
            total.problems.merge(counted.problems)
            total.documents += counted.documents
            total.characters += counted.characters
            total.words += counted.words
            for counts, more in zip((chars, words), beam_runner.load(_counts_file(work_dir, chunk))):
                counts.update(more)
            if len(words) > MAX_COUNTED:
                before = len(words)
                words = Counter({word: n for word, n in words.items() if n > 1})
                forgotten += before - len(words)
                log.warning('more than %d distinct words: those met once so far are forgotten', MAX_COUNTED)
    if not chars:
        raise ValueError(f'no text in {input!r}: {one_line(total.problems)}')

    if base is None:
        base = base_vocabulary.make(chars, words, num_chars or base_vocabulary.NUM_CHARS)
    elif num_chars is not None:
        base = base_vocabulary.part_of(base, chars, words, num_chars)
    rare = sum(n < min_count for n in words.values())
    chosen = _choose_words(words, base, num_words, min_count)
    vocabulary = Vocabulary(
        base + chosen,
        len(base),
        {
            'segmenter': description,
            'base_vocab': _described(base_vocab, num_chars),
            'documents': total.documents,
            'characters': total.characters,
            'word_coverage': round(sum(words[word] for word in chosen) / max(total.words, 1), 6),
            'rarest_word_count': words[chosen[-1]] if chosen else 0,
            'min_count': min_count,
            'words_below_min_count': rare,
            'words_forgotten': forgotten,
            'input_read': total.problems.read(),
            'input_problems': total.problems.to_json(),
        },
    )
    with writing(output):
        vocabulary.save(output)
    return vocabulary


def _check_output(output: Path) -> None:
    """Only a vocabulary of ours is replaced."""
    files = [path for path in (output, output.with_suffix('.json')) if path.exists()]
    try:
        if files:
            Vocabulary.load(output)
    except (ValueError, OSError) as error:
        raise FileExistsError(
            f'{" and ".join(map(str, files))} would be replaced, which build_vocab did not make so; '
            'give another --output'
        ) from error


@functools.cache
def _tokenizer() -> Tokenizer:
    """One that knows where BERT sees boundaries between words, whatever the vocabulary; once in a process."""
    return Tokenizer(Vocabulary([*SPECIAL.values()], len(SPECIAL)))


def _count_chunk(job: _Job, chunk: readers.Chunk) -> _Counted:
    """Writes the counts of a chunk's normalised words (two characters or more) and of all its characters."""
    cut = segmenters.segmenter(job.segmenter, job.hmm)
    tokenizer = _tokenizer()
    counted = _Counted(Report())
    spelled: Counter[str] = Counter()
    documents = (document.paragraphs for document in sources.read(chunk, counted.problems))
    for batch in in_batches(documents, lambda paragraphs: paragraphs):
        counted.documents += len(batch)
        counted.characters += sum(map(len, chain.from_iterable(batch)))
        tokenizer.trim()
        met = np.bincount(segmented(batch, cut, tokenizer)[0])
        numbers = np.flatnonzero(met)
        for word, n in zip(tokenizer.lexicon.words_of(numbers), met[numbers].tolist(), strict=True):
            spelled[word] += n
    del spelled[END]
    words: Counter[str] = Counter()
    chars: Counter[str] = Counter()
    for word, n in spelled.items():
        plain = PLAIN.fullmatch(word)
        key = word if plain else word_key(word)
        for char in key:
            chars[char] += n
        # A row of dots or dashes is a word to jieba, but none that has a meaning of its own.
        if 2 <= len(key) <= MAX_WORD_LENGTH and (plain or any(map(str.isalnum, key))):
            words[key] += n
    counted.words = words.total()
    beam_runner.save(_counts_file(job.work_dir, chunk), (dict(chars), dict(words)))
    return counted


def _counts_file(work_dir: str, chunk: readers.Chunk) -> Path:
    return Path(work_dir, f'counts-{chunk.index:06d}')


def _read_base(path: str | Path) -> list[str]:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f'the base vocabulary {path} is missing: give the vocab.txt of a Chinese BERT, which lies beside '
            'its weights, or none, and a base is made from the text'
        )
    base = read_tokens(path)
    try:
        Vocabulary(base, len(base))  # a file that cannot be used says so now, not after an hour of counting
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    return base


def _described(base_vocab: str | Path | None, num_chars: int | None) -> str:
    if base_vocab is None:
        return 'made from the text'
    return 'given' if num_chars is None else 'a part of the one given'


def _choose_words(words: Counter[str], base: list[str], num_words: int, min_count: int) -> list[str]:
    vocabulary = Vocabulary(base, len(base))
    known = set(base)

    def is_new(word: str) -> bool:
        if word in known:
            return False
        if PLAIN.fullmatch(word):
            return all(char in known for char in word)
        return vocabulary.unk not in vocabulary.wordpiece.encode(word, add_special_tokens=False).ids

    frequent = ((word, n) for word, n in words.items() if n >= min_count)
    return base_vocabulary.most_frequent(((word, n) for word, n in frequent if is_new(word)), num_words)


def input_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The flags that say what to read and how: the same for vocabulary and corpus."""
    parser.add_argument(
        '--input',
        required=required,
        help=f'files, folders or globs in quotes, separated by commas ({sources.FORMATS})',
    )
    parser.add_argument(
        '--text_field',
        default='',
        help='field that holds the text (json, parquet, tfds), or several, as title,content; '
        'default: found by its usual names',
    )
    parser.add_argument(
        '--chunk_bytes', type=int, default=16 << 20, help='bytes of input that a worker takes at a time'
    )
    parser.add_argument(
        '--beam',
        help='Beam options, comma-separated: --beam=--runner=DirectRunner,'
        '--direct_running_mode=multi_processing,--direct_num_workers=0',
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line; `arguments` None: the process's own."""
    parser = argparse.ArgumentParser(
        prog='python -m input_pipeline.build_vocab', description=__doc__.split('\n\n')[0]
    )
    input_arguments(parser)
    parser.add_argument(
        '--output', required=True, help='the vocabulary to write, a .txt; a .json goes beside it'
    )
    parser.add_argument('--base_vocab', help='vocab.txt of a Chinese BERT, whose rows are the first rows')
    parser.add_argument('--num_words', type=int, default=NUM_WORDS, help='rows for words, at most')
    parser.add_argument(
        '--num_chars', type=int, metavar='N',
        help=f'characters, at most (default: {base_vocabulary.NUM_CHARS}); with --base_vocab: keep so many '
        'of its Chinese ones, and the other characters and Latin pieces of the text (default: all rows)',
    )  # fmt: skip
    parser.add_argument(
        '--min_count', type=int, default=MIN_COUNT, help='what occurs less often is no word; 1 takes all'
    )
    parser.add_argument('--segmenter', default='jieba', choices=segmenters.SEGMENTERS)
    parser.add_argument(
        '--nohmm', action='store_false', dest='hmm', help='do not guess words missing in the dictionary'
    )
    flags = parser.parse_args(arguments)
    with beam_runner.command_line():
        vocabulary = build(**vars(flags))
    details = vocabulary.details
    print(
        f'{flags.output}: {vocabulary.base_size:,} base rows ({details["base_vocab"]}) and '
        f'{len(vocabulary) - vocabulary.base_size:,} words, which make up '
        f'{details["word_coverage"]:.1%} of the words of two characters or more in '
        f'{details["characters"]:,} characters; the rarest occurs {details["rarest_word_count"]:,} times, '
        f'{details["words_below_min_count"]:,} fewer than {flags.min_count} (--min_count)'
    )
    for reason, entry in details['input_problems'].items():
        print(f'  {reason}: {entry["count"]:,}, for example {", ".join(entry["examples"])}')
    if note := advice(details['input_problems']):
        print(note)
    field = f'--text_field {shlex.quote(flags.text_field)} ' if flags.text_field else ''
    print(
        f"Next: python -m input_pipeline.build_corpus --input '{flags.input}' {field}--vocab {flags.output} "
        '--output corpus'
    )
