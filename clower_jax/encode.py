"""A vector for every line of a text file.

    python -m clower_jax.encode --model clower-char --input texts.txt --output vectors.npy

`numpy.load('vectors.npy', mmap_mode='r')` has row i for line i: fp32 [lines, D]. Memory does not depend on
the size of the file.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from input_pipeline.utils import garbage

if __name__ == '__main__':  # before the imports, which are most of a short command's time
    garbage.collect_seldom()

import numpy as np
from tqdm import tqdm

from clower_jax.inference.encoder import Encoder
from clower_jax.utils import compile_cache
from input_pipeline.utils import output_file

LINES = 1 << 16  # in memory at a time


def encode_file(
    encoder: Encoder,
    input: str | Path,
    output: str | Path,
    batch_size: int | None = None,
    normalize: bool = False,
) -> tuple[int, int]:
    """Writes `output`, a .npy, which appears when it is complete; returns its shape.

    Only a line feed ends a line; an empty line is an empty text. Arguments are those of `Encoder.encode`.

    Raises ValueError where the input has no line, or one that is not UTF-8.
    """
    input, output = Path(input), Path(output)
    with input.open('rb') as file:
        count = sum(1 for _ in file)
    if not count:
        raise ValueError(f'{input} has no text in it')
    output.parent.mkdir(parents=True, exist_ok=True)
    lines = _lines(input)
    with output_file.atomic_write(output) as partial:
        vectors = np.lib.format.open_memmap(partial, 'w+', np.float32, (count, encoder.size))
        with tqdm(total=count, unit='text', unit_scale=True, disable=None) as bar:
            for first in range(0, count, LINES):
                texts = list(islice(lines, LINES))
                vectors[first : first + LINES] = encoder.encode(texts, batch_size, normalize, bar)
        vectors.flush()
    return vectors.shape


def _lines(path: Path) -> Iterator[str]:
    with path.open('rb') as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode('utf-8-sig' if number == 1 else 'utf-8').rstrip('\r\n')
            except UnicodeDecodeError as error:
                raise ValueError(
                    f'{path}:{number} is not UTF-8 ({error.reason}): save the file as UTF-8'
                ) from error


def main(argv: list[str] | None = None) -> None:
    """The command; errors are messages."""
    parser = argparse.ArgumentParser(
        prog='python -m clower_jax.encode', description=__doc__.partition('\n')[0]
    )
    parser.add_argument('--model', required=True, help='a BERT folder, a workdir, or sentence-transformers')
    parser.add_argument('--input', required=True, help='a text a line, UTF-8')
    parser.add_argument('--output', required=True, help='the .npy to write')
    parser.add_argument('--pooling', choices=('mean', 'cls'), default='', help='default: as it was trained')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32')
    parser.add_argument('--max_length', type=int, help='tokens of a text; default: as the model says')
    parser.add_argument('--batch_size', type=int, help='texts in a batch, at most')
    parser.add_argument('--normalize', action='store_true', help='vectors of length 1')
    args = parser.parse_args(argv)
    compile_cache.keep_compiled()
    try:
        encoder = Encoder.load(args.model, args.pooling, args.dtype, args.max_length)
        rows, size = encode_file(encoder, args.input, args.output, args.batch_size, args.normalize)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'encode: {error}')
    print(f'{args.output}: {rows:,} vectors of {size} numbers')


if __name__ == '__main__':
    main()
