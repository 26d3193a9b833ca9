"""Makes a corpus folder from text: records in both views, their vocabulary, a manifest of how they were made.

    python -m input_pipeline.build_corpus --input 'text/*.txt' --vocab vocab.txt --output DIR

    python -m input_pipeline.build_corpus --verify DIR

compares all files of a corpus with the digests in its manifest. A corpus is a TFDS data set
(`tfds.builder_from_directory(DIR)`) with the splits `train` and `validation`, and stands by itself. The same
input and settings make the same bytes for any number of workers.
"""

import argparse
import contextlib
import functools
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.corpus import beam_runner, corpus_files
from input_pipeline.corpus.manifest import DIGESTS, Tally, one_line, statistics, summary, versions
from input_pipeline.corpus.record_files import SPLITS, ShardWriter, assemble
from input_pipeline.corpus.vocab_builder import input_arguments
from input_pipeline.corpus.windows import check_lengths, encode_documents, pause_ids
from input_pipeline.documents import readers, sources
from input_pipeline.documents.report import Report
from input_pipeline.text import segmenters
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.sentences import in_batches
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils.partial_folder import partial_folder

log = logging.getLogger(__name__)

FORMAT_VERSION = 1


@dataclass(frozen=True)
class _Job:
    """What a worker must know besides its chunk."""

    work_dir: Path  # holds corpus/vocab.txt, digests/, and the shards that the workers write
    segmenter: str
    hmm: bool
    char_length: int
    word_length: int
    held_out: range  # digests of the documents that go to validation

    def digests(self, chunk: readers.Chunk) -> Path:
        return self.work_dir / 'digests' / f'{chunk.index:06d}'

    def shard(self, split: str, chunk: readers.Chunk) -> Path:
        return self.work_dir / f'shards-{self.held_out.stop}' / f'{split}-{chunk.index:06d}'


def build(
    input: str,
    vocab: str | Path,
    output: str | Path,
    char_length: int = 512,
    word_length: int = 384,
    validation_fraction: float = 0.01,
    beam: str | None = None,
    segmenter: str | None = None,
    hmm: bool | None = None,
    text_field: str = '',
    chunk_bytes: int = 16 << 20,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the corpus folder `output` and returns its manifest.

    Args:
      input: files, folders, globs or tfds:NAME, as `sources.plan` reads them.
      vocab: a vocabulary made by build_vocab.
      output: the folder, which appears when it is complete.
      char_length, word_length: tokens of a row in each view, [CLS] and two [SEP] included.
      validation_fraction: share of the documents held out, chosen by a hash of their text. Where that chooses
        none of two or more, the one with the smallest hash is held out, unless it has over half of the
        records: then the next.
      beam: Beam's pipeline options; None works in this process.
      segmenter, hmm: None takes those that the vocabulary was made with.
      text_field: where the text is in .json, .parquet and TFDS input, as `sources.plan` takes it.
      chunk_bytes: input that a worker takes at a time; a chunk makes at most one file for each split.
      overwrite: replace an older corpus in `output`.

    Raises:
      ValueError: settings that make no sense, a damaged file, or input of which no training record comes.
      FileExistsError: `output` is in use.
    """
    output = Path(output).resolve()
    check_lengths(char_length, word_length)
    if not 0 <= validation_fraction < 1:
        raise ValueError(f'validation_fraction is {validation_fraction}; it must be 0 or more and below 1')
    _check_output(output, overwrite)
    vocabulary = Vocabulary.load(vocab)
    made_with = vocabulary.details.get('segmenter', {})
    segmenter = segmenter or made_with.get('name', 'jieba')
    hmm = made_with.get('hmm', True) if hmm is None else hmm
    description = segmenters.describe(segmenter, hmm)
    if description != made_with:
        log.warning(
            '%s: its words come from the segmenter %s, those of the corpus from %s, so more of them '
            'will be missing in the vocabulary',
            vocab,
            made_with or '(unknown)',
            description,
        )
    chunks = sources.plan(input, chunk_bytes, text_field)

    # Beside the output: a cluster's workers see that place too, and the finished folder moves in one step.
    with partial_folder(output) as temporary:
        job = _Job(
            temporary,
            segmenter,
            hmm,
            char_length,
            word_length,
            range(int(validation_fraction * DIGESTS)),
        )
        folder = job.work_dir / 'corpus'
        vocabulary.save(folder / 'vocab.txt')
        (job.work_dir / 'digests').mkdir()
        tallies, total = _pack(job, chunks, beam)
        if validation_fraction and not total.counts['validation_documents'] and total.counts['documents'] > 1:
            records = total.records['train']  # all; at most one document has over half of them
            digest = next(digest for digest, n in total.lowest if 2 * n <= records)
            job = replace(job, held_out=range(digest, digest + 1))
            tallies, total = _pack(job, chunks, beam)
        if not total.records['train']:
            raise ValueError(_nothing_to_train_on(input, total))
        manifest = {
            'format_version': FORMAT_VERSION,
            'versions': versions(segmenter),
            'segmenter': description,
            'vocabulary': {
                'sha256': vocabulary.sha256(),
                'size': len(vocabulary),
                'base_size': vocabulary.base_size,
                'num_words': len(vocabulary) - vocabulary.base_size,
            },
            'char_length': char_length,
            'word_length': word_length,
            'validation_fraction': validation_fraction,
            'chunk_bytes': chunk_bytes,
            'input': _input_files(chunks),
            **statistics(total, char_length, word_length),
        }
        shards = {
            split: [tally.shards[split] for tally in tallies if split in tally.shards] for split in SPLITS
        }
        manifest = corpus_files.write_manifest(folder, manifest, assemble(folder, shards))
        _check_output(output, overwrite)  # somebody may have filled it in the meantime
        _move(folder, output, job.work_dir / 'replaced')
    return manifest


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists() or output.is_dir() and not any(output.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f'{output} is in use; give another --output, or --overwrite to replace it')
    if not (output / 'manifest.json').is_file():
        raise FileExistsError(
            f'{output} is no corpus (it has no manifest.json), and --overwrite replaces nothing '
            'else; give another --output'
        )


def _move(folder: Path, output: Path, replaced: Path) -> None:
    """In one step, or into an empty folder, which somebody may be in, file by file, the manifest last."""
    if output.is_dir() and not any(output.iterdir()):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == 'manifest.json'):
            path.rename(output / path.name)
        return
    if output.exists():
        output.rename(replaced)
    folder.rename(output)


def _nothing_to_train_on(input: str, total: Tally) -> str:
    return (
        f'no training record comes of {input!r}: {total.counts["documents"]} documents kept, '
        f'{total.counts["validation_documents"]} of them for validation; '
        f'{one_line(total.dropped, total.problems)}. A document needs two sentences or more '
        '(in .txt, blank lines separate documents)'
    )


def _input_files(chunks: Sequence[readers.Chunk]) -> list[dict[str, Any]]:
    sizes: Counter[str] = Counter()
    fields = {chunk.path: {'text_fields': list(chunk.text_fields)} for chunk in chunks if chunk.text_fields}
    for chunk in chunks:
        sizes[chunk.path] += chunk.num_bytes
    return [{'path': path, 'bytes': size} | fields.get(path, {}) for path, size in sizes.items()]


def _pack(job: _Job, chunks: Sequence[readers.Chunk], beam: str | None) -> tuple[list[Tally], Tally]:
    """Writes all records; returns what came of each chunk, and of all."""
    digest, pack = functools.partial(_save_digests, job), functools.partial(_pack_chunk, job)
    tallies = list(
        beam_runner.run_unique(digest, pack, chunks, job.work_dir / 'tallies', beam, 'packing records')
    )
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    return tallies, total


# On the workers


def _digest(document: sources.Document) -> bytes:
    """128 bits of the text, with every run of white space as one space: equal for duplicates."""
    text = ' '.join('\n'.join(document.paragraphs).split())
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _save_digests(job: _Job, chunk: readers.Chunk) -> np.ndarray:
    """uint64 [documents, 2], which it also writes."""
    text = b''.join(map(_digest, sources.read(chunk, Report())))
    digests = np.frombuffer(text, '<u8').reshape(-1, 2)
    beam_runner.save(job.digests(chunk), digests)
    return digests


@functools.lru_cache(maxsize=1)
def _tools(vocab: Path, segmenter: str, hmm: bool) -> tuple[segmenters.Segment, Tokenizer, frozenset[int]]:
    """Segmenter, tokenizer and pauses, loaded once in a process."""
    tokenizer = Tokenizer(Vocabulary.load(vocab))
    return segmenters.segmenter(segmenter, hmm), tokenizer, pause_ids(tokenizer)


def _unique(
    job: _Job, chunk: readers.Chunk, repeats: np.ndarray, tally: Tally
) -> Iterator[tuple[sources.Document, int]]:
    """The documents of a chunk that did not occur before, with the first half of their digests."""
    duplicates = set(repeats.tolist())
    digests = beam_runner.load(job.digests(chunk))[:, 0].tolist()
    for number, document in enumerate(sources.read(chunk, tally.problems)):
        if number in duplicates:
            tally.dropped.add('duplicate', document.source)
        else:
            yield document, digests[number]


def _pack_chunk(job: _Job, chunk: readers.Chunk, repeats: np.ndarray) -> Tally:
    """Writes the records of one chunk, one file for each split that has any; `repeats`: the numbers of its
    documents that occurred before."""
    cut, tokenizer, pauses = _tools(job.work_dir / 'corpus' / 'vocab.txt', job.segmenter, job.hmm)
    tally = Tally()
    shards: dict[str, ShardWriter] = {}
    with contextlib.ExitStack() as stack:
        for batch in in_batches(_unique(job, chunk, repeats, tally), lambda item: item[0].paragraphs):
            paragraphs = [document.paragraphs for document, _ in batch]
            encoded = encode_documents(paragraphs, cut, tokenizer, pauses, job.char_length, job.word_length)
            for (document, digest), made in zip(batch, encoded, strict=True):
                if not made.windows:
                    tally.dropped.add('one_sentence' if made.sentences else 'no_tokens', document.source)
                    continue
                split = 'validation' if digest in job.held_out else 'train'
                if split not in shards:
                    shards[split] = stack.enter_context(ShardWriter(job.shard(split, chunk)))
                tally.add_document(split, digest, made)
                for window in made.windows:
                    shards[split].write(window._asdict())
            windows = list(chain.from_iterable(made.windows for made in encoded))
            tally.add_records(windows, tokenizer.vocabulary.unk)
    tally.shards = {split: writer.shard for split, writer in shards.items() if writer.shard}
    tally.records = Counter({split: shard.records for split, shard in tally.shards.items()})
    return tally


def _verify_only(arguments: list[str] | None) -> bool:
    """Whether --verify is given, which needs no other flag."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('--verify')
    return parser.parse_known_args(arguments)[0].verify is not None


def main(arguments: list[str] | None = None) -> None:
    """The command line; `arguments` None: the process's own."""
    parser = argparse.ArgumentParser(
        prog='python -m input_pipeline.build_corpus', description=__doc__.split('\n\n')[0]
    )
    verifying = _verify_only(arguments)
    parser.add_argument(
        '--verify', metavar='DIR', help='make nothing: compare the digests of all files of a corpus'
    )
    input_arguments(parser, required=not verifying)
    parser.add_argument(
        '--vocab',
        required=not verifying,
        help='vocab.txt from input_pipeline.build_vocab, its .json beside it',
    )
    parser.add_argument('--output', required=not verifying, help='the folder to make')
    parser.add_argument('--char_length', type=int, default=512, help='character tokens of a row')
    parser.add_argument('--word_length', type=int, default=384, help='word tokens of a row')
    parser.add_argument(
        '--validation_fraction', type=float, default=0.01, help='share of the documents held out'
    )
    parser.add_argument('--segmenter', choices=segmenters.SEGMENTERS, help="default: the vocabulary's")
    parser.add_argument(
        '--nohmm',
        action='store_const',
        const=False,
        dest='hmm',
        help='do not guess words missing in the dictionary; default: as for the vocabulary',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an older corpus')
    flags = parser.parse_args(arguments)
    settings = vars(flags)
    with beam_runner.command_line():
        if folder := settings.pop('verify'):
            print(corpus_files.verify(folder))
            return
        start = time.monotonic()
        manifest = build(**settings)
    seconds = time.monotonic() - start
    speed = manifest['characters'] / seconds
    print(f'{flags.output}: made in {seconds:.0f} s, {speed:,.0f} characters a second')
    print(summary(manifest))
    print(f'Next: python run.py --config=configs/pretrain.py:cpu --config.data.corpus={flags.output}')
