"""A folder appears whole or not at all."""

import resource

import pytest

from clower_jax.utils import output_folder


def test_a_new_folder(tmp_path):
    output = tmp_path / 'above' / 'out'
    with output_folder.atomic_folder(output, 10) as folder:
        (folder / 'a').write_text('1')
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ['a'] and list(output.parent.iterdir()) == [output]


def test_what_was_there_is_replaced_and_an_empty_folder_kept(tmp_path):
    older, empty = tmp_path / 'older', tmp_path / 'empty'
    older.mkdir()
    (older / 'b').write_text('2')
    empty.mkdir()
    place = empty.stat().st_ino
    for output in (older, empty):
        with output_folder.atomic_folder(output, 10) as folder:
            (folder / 'a').write_text('1')
        assert [path.name for path in output.iterdir()] == ['a']
    assert empty.stat().st_ino == place and sorted(tmp_path.iterdir()) == [empty, older]


def test_after_an_error_everything_is_as_before(tmp_path):
    output = tmp_path / 'out'
    output.mkdir()
    (output / 'b').write_text('2')
    with pytest.raises(PermissionError), output_folder.atomic_folder(output, 10) as folder:
        (folder / 'a').write_text('1')
        raise PermissionError
    assert [path.name for path in tmp_path.iterdir()] == ['out'] and (output / 'b').read_text() == '2'


def test_no_room(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # a larger file is cut, as on a full disk
    try:
        with (
            pytest.raises(
                ValueError, match=r'could not be written \(.*too large.*\)\. Nothing is left of it'
            ),
            output_folder.atomic_folder(tmp_path / 'out', 10) as folder,
        ):
            (folder / 'a').write_text('1' * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
