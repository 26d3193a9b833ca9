"""A file that is written whole or not at all."""

import pytest

from input_pipeline.utils import output_file


def test_what_goes_wrong_leaves_the_file_before(tmp_path):
    path = tmp_path / 'config.json'
    output_file.write_text(path, '{"a": "龘"}\n')
    with pytest.raises(RuntimeError), output_file.atomic_write(path) as partial:
        partial.write_text('{"a')
        assert partial.suffix == '.json'
        raise RuntimeError
    assert path.read_bytes() == '{"a": "龘"}\n'.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_names_the_path(tmp_path):
    path = tmp_path / 'missing' / 'words.txt'
    with pytest.raises(FileNotFoundError, match=rf"No such file or directory: '{path}'"):
        output_file.write_text(path, 'text')


@pytest.mark.parametrize('name', ['config.json', 'vocab.txt', 'metrics.jsonl'])
def test_a_full_disk_names_the_path(tmp_path, name):
    path = tmp_path / name
    (tmp_path / f'.{path.stem}.partial{path.suffix}').symlink_to('/dev/full')
    with pytest.raises(OSError, match=rf"No space left on device: make room there: '{path}'"):
        output_file.write_text(path, 'text')
    (tmp_path / name).symlink_to('/dev/full')
    with pytest.raises(OSError, match=str(path)), output_file.naming_errors(path), path.open('a') as out:
        out.write('text')
