"""A slice of `make soak`: what is damaged is not trained on in silence."""

import random

import damage
import damaged
import pytest


def test_every_kind_is_done_to_every_file_that_it_changes(tmp_path):
    (tmp_path / 'whole').mkdir()
    for name, content in {'a.bin': b'abc', 'b.bin': b'xyz', 'empty': b'', 'zero.bin': b'\0\0'}.items():
        (tmp_path / 'whole' / name).write_bytes(content)
    found = list(damage.damages(tmp_path / 'whole'))
    assert {kind for kind, file in found if file == 'a.bin'} == set(damage.KINDS)
    assert {kind for kind, file in found if file == 'empty'} == {'delete', 'swap'}
    assert ('zero', 'zero.bin') not in found
    for one in found:
        before = {path.name: path.read_bytes() for path in (tmp_path / 'whole').iterdir()}
        damage.do(one, tmp_path / 'whole', random.Random(0))
        after = {path.name: path.read_bytes() for path in (tmp_path / 'whole').iterdir()}
        assert [name for name in before if after.get(name) != before[name]] == [one.file], one
        for name, content in before.items():
            (tmp_path / 'whole' / name).write_bytes(content)


def test_what_is_used_in_silence_fails(tmp_path):
    (tmp_path / 'whole').mkdir()
    (tmp_path / 'whole' / 'value').write_bytes(b'1')

    def use(copy):
        assert (copy / 'value').exists(), 'gone'
        return 'harmless'

    with pytest.raises(AssertionError, match=r"kind='delete', file='value'.*gone"):
        damage.of_every_file(tmp_path / 'whole', '.', tmp_path, use)


@pytest.mark.slow
def test_no_damaged_checkpoint_is_gone_on_from(tmp_path):
    counts = damaged.of_checkpoints(tmp_path, every=9)
    assert counts.get('noticed', 0) + counts.get('refused', 0) > 5


@pytest.mark.slow
def test_no_damaged_corpus_is_read(small_corpus, tmp_path):
    counts = damaged.of_corpora(small_corpus, tmp_path, every=3)
    assert counts['refused'] > 5
