"""What bench/hlo.py reads out of a compiled program."""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bench import compiled, hlo, profile_step, topologies

# A kernel that reads a slice of its first operand, one that writes a slice into it, one that gathers rows.
SLICES = """HloModule slices, is_scheduled=true

%read (p0: f32[8,100], p1: s32[]) -> f32[1,100] {
  %p0 = f32[8,100]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,100]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,100}
}

%write (p0: f32[8,100], p1: f32[1,100], p2: s32[]) -> f32[8,100] {
  %p0 = f32[8,100]{1,0} parameter(0)
  %p1 = f32[1,100]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %update = f32[8,100]{1,0} dynamic-update-slice(%p0, %p1, %p2, %zero)
}

%gathered (p0: f32[8,100], p1: s32[2,1]) -> f32[2,100] {
  %p0 = f32[8,100]{1,0} parameter(0)
  %p1 = s32[2,1]{1,0} parameter(1)
  ROOT %rows = f32[2,100]{1,0} gather(%p0, %p1), offset_dims={1}, slice_sizes={1,100}
}

ENTRY %main (x: f32[8,100], i: s32[], j: s32[2,1]) -> (f32[8,100], f32[2,100]) {
  %x = f32[8,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %j = s32[2,1]{1,0} parameter(2)
  %r = f32[1,100]{1,0} fusion(%x, %i), kind=kLoop, calls=%read, metadata={op_name="jit(f)/encoder/slice"}
  %w-start = ((f32[8,100]{1,0}), f32[8,100]{1,0}, u32[]) fusion-start(%x, %r, %i), kind=kLoop, calls=%write
  %w = f32[8,100]{1,0} fusion-done(%w-start)
  %g = f32[2,100]{1,0} fusion(%w, %j), kind=kLoop, calls=%gathered
  %sum = f32[8,100]{1,0} all-reduce(%w), replica_groups={{0,1}}, to_apply=%add
  %fast = f32[8,100]{1,0:S(1)} copy(%sum)
  ROOT %out = (f32[8,100]{1,0}, f32[2,100]{1,0}) tuple(%sum, %g)
}
"""


def test_of_slices_and_gathers_the_part_counts():
    row, array, number = 400, 3200, 4
    program = hlo.Program(SLICES)
    by_name = {kernel.instruction.name: kernel for kernel in program.kernels}
    assert by_name['r'].bytes == row + number + row
    assert by_name['w-start'].bytes == row + number + row
    assert by_name['g'].bytes == 2 * row + 2 * number + 2 * row
    assert by_name['sum'].bytes == 2 * array
    assert by_name['fast'].bytes == array  # its result is in the fast memory of the chip
    assert program.collectives == {'all-reduce': (1, array)}
    assert program.traffic == {
        'other': sum(by_name[name].bytes for name in ('r', 'w-start', 'g', 'fast')),
        'collectives': 2 * array,
    }
    assert program.other({'layers': 'encoder'}) == {
        'layers': by_name['r'].bytes,
        'rest': sum(by_name[name].bytes for name in ('w-start', 'g', 'fast')),
    }


def test_a_loop_counts_as_often_as_it_runs():
    """A product of matrices in a loop of seven, compiled for the CPU of this machine."""

    def looped(x, matrix):
        return jax.lax.fori_loop(0, 7, lambda _, x: jnp.tanh(x @ matrix), x)

    square = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    text = jax.jit(looped).lower(square, square).compile().as_text()
    products = [kernel for kernel in hlo.Program(text).kernels if kernel.is_product]
    assert [kernel.times for kernel in products] == [7]
    assert products[0].bytes == 3 * 64 * 64 * 4
    # Of dots; in some versions of XLA a CPU's product is a call of a library.
    if 'dot(' in text:
        assert hlo.Program(text).product_flops() == 7 * 2 * 64**3


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match='ENTRY'):
        hlo.Program('nothing')


@pytest.mark.slow
@pytest.mark.parametrize(('chip', 'compiler'), [('h100:8', 'jax_plugins.xla_cuda13'), ('v5e:4x4', 'libtpu')])
@pytest.mark.parametrize('change', ['microbatches=1', 'microbatches=2', 'mesh.reduce_dtype=bfloat16'])
def test_devices_add_the_gradient_up_once(change, chip, compiler):
    """Compiled for devices that are not there, where the compiler for them is installed."""
    package = compiler.partition('.')[0]
    if not importlib.util.find_spec(package) or not importlib.util.find_spec(compiler):
        pytest.skip(f'{compiler} is not installed')
    command = [
        sys.executable,
        compiled.__file__,
        '--one',
        '--cells',
        'small',
        '--chips',
        chip,
        '--batch',
        '8',
    ]
    sizes = 'model.num_layers=2', 'model.vocab_size=2000', 'model.base_vocab_size=1000'
    lengths = 'data.char_length=128', 'data.word_length=128'
    command += [f'--set={one}' for one in (*sizes, *lengths, change)]
    environment = os.environ | topologies.ENVIRONMENT | {'PYTHONPATH': str(Path(__file__).parents[1])}
    environment['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '0'  # which the other tests want
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    gradient = (2 if 'bfloat16' in change else 4) * figures['parameters']
    assert gradient <= figures['collectives']['all-reduce'][1] <= 1.01 * gradient
    assert figures['collectives'].keys() <= {'all-reduce', 'all-gather'}


@pytest.mark.parametrize('limit', [600, 1000, 10_000])
def test_the_largest_batch_is_the_last_that_fits(limit):
    """Of a step whose memory is not quite a straight line."""

    def run(rows):
        rows = rows or 32
        return {
            'batch': rows,
            'memory': {'arguments': 100, 'temporaries': 10 * rows + (100 if rows > 40 else 0)},
        }

    found = compiled.largest(run, limit)['batch']
    assert found % 8 == 0 and compiled.bytes_needed(run(found)) <= limit < compiled.bytes_needed(
        run(found + 16)
    )


def test_where_nothing_fits_it_is_said():
    with pytest.raises(RuntimeError, match='not even 8 rows'):
        compiled.largest(
            lambda rows: {'batch': rows or 32, 'memory': {'arguments': 10_000 + (rows or 32)}}, 600
        )


def test_what_costs_more_than_before_is_named():
    before = {
        'memory': {'arguments': 1000, 'temporaries': 1000},
        'traffic': {'products': 500, 'other': 100},
        'collectives': {'all-reduce': [1, 400]},
        'kernels': 100,
    }
    assert not compiled.increases(before, before)
    now = before | {'kernels': 103, 'traffic': {'products': 400, 'other': 110}}
    now['collectives'] = {'all-reduce': [9, 400], 'all-gather': [1, 8]}
    assert compiled.increases(now, before) == [
        'traffic of other 110, before 100',
        'bytes of all-gather 8, before 0',
    ]


def test_time_is_added_up_by_group():
    times = {'r': (6e6, 4), 'g': (2e6, 2), 'fast': (1e6, 2), 'sum': (5e6, 2), 'memcpy': (4e6, 8)}
    found = profile_step.by_group(times, hlo.Program(SLICES), steps=2)
    assert found['rest'] == (pytest.approx(0.0045), 4, 800 + 4 + 800 + 8 + 800 + 3200)
    assert found['collectives'].seconds == 0.0025
    assert found['no kernel of the program'] == (0.002, 4, 0)
    assert list(found) == ['rest', 'collectives', 'no kernel of the program']


@pytest.mark.parametrize(
    ('cell', 'rows', 'name'),
    [
        ('base,dropped', 96, 'auto'),
        ('base,cudnn', 96, 'no attention dropout'),
        ('base,cudnn', 264, 'no attention dropout, 264 rows'),
    ],
)
def test_the_estimate_is_near_what_was_measured(cell, rows, name):
    """The second and third have no part in what REACHED is made of."""
    results = Path(__file__).parents[1] / 'docs/results'
    cells = json.loads((results / 'compiled/figures.json').read_text('utf-8'))['cells']
    figures = next(one for one in cells if (one['cell'], one['chip'], one['batch']) == (cell, 'h100', rows))
    measured = json.loads((results / 'gpu/h200.json').read_text('utf-8'))['steps'][name]
    assert measured['examples'] == rows
    expected = statistics.median(measured['seconds'])
    assert compiled.estimate(figures | {'chip': 'h200'}) == pytest.approx(expected, rel=0.03)


def test_where_attention_is_no_kernel_there_is_no_estimate():
    figures = {'chip': 'h100', 'libraries': {}, 'product_flops': 1, 'traffic': {'other': 1}, 'kernels': 1}
    assert compiled.estimate(figures) is None
    assert compiled.estimate(figures | {'chip': 'v5e:4x4', 'libraries': {'fmha': 1}}) is None
