"""What bench/hlo.py reads out of a compiled program."""

import jax
import jax.numpy as jnp
import pytest

from bench import hlo

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


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match='ENTRY'):
        hlo.Program('nothing')
