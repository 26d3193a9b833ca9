"""A file that is written whole or not at all."""

import pytest

from clower_jax.utils import output_file


def test_what_goes_wrong_leaves_the_file_before(tmp_path):
    path = tmp_path / 'config.json'
    output_file.write_text(path, '{"a": "龘"}\n')
    with pytest.raises(RuntimeError), output_file.atomic_write(path) as partial:
        partial.write_text('{"a')
        assert partial.suffix == '.json'
        raise RuntimeError
    assert path.read_bytes() == '{"a": "龘"}\n'.encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('name', ['config.json', 'vocab.txt', 'metrics.jsonl'])
def test_a_full_disk_names_the_path(tmp_path, name):
    path = tmp_path / name
    (tmp_path / f'.{path.stem}.partial{path.suffix}').symlink_to('/dev/full')
    with pytest.raises(OSError, match=rf"No space left on device: make room there: '{path}'"):
        output_file.write_text(path, 'text')
    (tmp_path / name).symlink_to('/dev/full')
    with pytest.raises(OSError, match=str(path)), output_file.naming_errors(path), path.open('a') as out:
        out.write('text')


def test_files_of_a_folder(tmp_path):
    (tmp_path / '.partial').mkdir()
    (tmp_path / '.partial' / 'half').write_text('of a process that was killed')
    (tmp_path / 'predictions.json').write_text('before')
    with output_file.atomic_write_all(tmp_path) as folder:
        (folder / 'predictions.json').write_text('after')
        (folder / 'nbest.json').write_text('too')
        assert (tmp_path / 'predictions.json').read_text() == 'before'
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        'predictions.json': 'after',
        'nbest.json': 'too',
    }
