"""The layout is the architecture: which package imports which, what one file alone imports."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import architecture
from helpers.architecture import PACKAGES, ROOT, package_of

# What the modules of a sub-package may import, beside each other: these, and what these may import. Commands,
# which lie in the package itself, may import all of it.
BELOW = {
    'clower_jax.utils': ('input_pipeline.utils',),
    'clower_jax.parallel': ('clower_jax.utils',),
    'clower_jax.ops': ('clower_jax.parallel', 'input_pipeline.text'),
    'clower_jax.models': ('clower_jax.ops',),
    'clower_jax.objectives': ('clower_jax.models',),
    'clower_jax.checkpoints': ('clower_jax.parallel',),
    'clower_jax.interop': ('clower_jax.objectives', 'clower_jax.checkpoints'),
    'clower_jax.export': ('clower_jax.interop',),
    'clower_jax.reports': ('clower_jax.export',),
    'clower_jax.training': ('clower_jax.reports',),
    'clower_jax.inference': ('clower_jax.interop',),
    'clower_jax.experiments': ('clower_jax.training', 'clower_jax.inference'),
    'input_pipeline.utils': (),
    'input_pipeline.text': ('input_pipeline.utils',),
    'input_pipeline.metrics': (),
    'input_pipeline.datasets': ('input_pipeline.utils',),
    'input_pipeline.documents': ('input_pipeline.utils',),
    'input_pipeline.corpus': ('input_pipeline.text', 'input_pipeline.documents'),
    'input_pipeline.pretraining': ('input_pipeline.corpus', 'input_pipeline.metrics'),
    'input_pipeline.features': ('input_pipeline.text', 'input_pipeline.datasets'),
    'input_pipeline.sentence_vectors': ('input_pipeline.features', 'input_pipeline.metrics'),
    'input_pipeline.finetuning': ('input_pipeline.sentence_vectors',),
    'input_pipeline.probing': ('input_pipeline.pretraining', 'input_pipeline.finetuning'),
}
# What joins the two packages beside the edges from clower_jax to input_pipeline's text and utils.
JOINS = {
    'clower_jax/jobs.py': {
        f'input_pipeline.{name}'
        for name in ('datasets', 'pretraining', 'sentence_vectors', 'finetuning', 'probing')
    },
    'clower_jax/replay.py': {'input_pipeline.pretraining'},
    'clower_jax/experiments/word_view.py': {'input_pipeline.metrics', 'input_pipeline.probing'},
}
# A library that these files alone may import, so that replacing it is a change to them.
SOLE_IMPORTERS = {
    'orbax': {'clower_jax/checkpoints/orbax_store.py'},
    'apache_beam': {'input_pipeline/corpus/beam_runner.py'},
    'tensorflow': {'input_pipeline/utils/tensorflow.py'},
    # Only to open a pytorch_model.bin and to write ONNX, see below.
    'torch': {'clower_jax/interop/weight_files.py', 'clower_jax/export/onnx_model.py'},
}
# Files that write in other ways, and why what they write is whole.
WRITERS = {
    'input_pipeline/utils/output_file.py': 'it is how the others write',
    'input_pipeline/utils/partial_folder.py': 'a lock, which holds nothing',
    'input_pipeline/corpus/beam_runner.py': 'of one result that two workers write, each has its own name',
    'clower_jax/api.py': 'a temporary folder',
    'clower_jax/export/bert_folder.py': 'the folder is written whole',
    'clower_jax/interop/sentence_folder.py': 'the folder is written whole',
}


def sources(*folders: str) -> list[str]:
    """The Python files of these folders, as paths from the repository's root."""
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob('*.py'))


PACKAGE_FILES = sources(*PACKAGES)
PRODUCT_FILES = [*PACKAGE_FILES, *sources('configs'), *(['run.py'] if (ROOT / 'run.py').exists() else [])]


def parse(file: str) -> ast.Module:
    return architecture.parse(ROOT / file)


def imports(file: str) -> Iterator[tuple[int, str]]:
    return architecture.imports(ROOT / file)


def reachable(package: str) -> set[str]:
    """The packages that `package` may import, itself among them."""
    return {package}.union(*(reachable(other) for other in BELOW[package]))


def test_every_sub_package_has_its_place():
    folders = {path.parent for path in map(Path, PACKAGE_FILES)} - {Path(name) for name in PACKAGES}
    assert {'.'.join(folder.parts) for folder in folders} == set(BELOW)


def test_packages_import_downwards():
    for file in PACKAGE_FILES:
        package = package_of('.'.join(Path(file).with_suffix('').parts))
        allowed = (
            reachable(package)
            if package in BELOW
            else {package, *reachable('input_pipeline.text')}.union(
                name for name in BELOW if name.startswith(f'{package}.')
            )
        )
        allowed |= JOINS.get(file, set())
        for line, name in imports(file):
            top = name.split('.')[0]
            assert top not in ('configs', 'run', 'tests', 'bench'), f'{file}:{line}: imports {name}'
            if top in PACKAGES:
                assert package_of(name) in allowed, f'{file}:{line}: {package} may not import {name}'


def test_the_picture_is_true_to_the_imports():
    again = 'draw it again: PYTHONPATH=.:tests python -m helpers.architecture'
    assert architecture.drawn(architecture.PICTURE.read_text('utf-8')) == architecture.arrows(), again
    for _, module in architecture.WAY:
        assert (ROOT / module).exists(), module


def test_what_joins_the_packages_is_needed():
    for file, packages in JOINS.items():
        assert packages <= {package_of(name) for _, name in imports(file)}, file


@pytest.mark.parametrize('library', SOLE_IMPORTERS)
def test_one_file_imports(library):
    users = {file for file in PRODUCT_FILES for _, name in imports(file) if name.split('.')[0] == library}
    assert users <= SOLE_IMPORTERS[library]


def test_one_way_to_log():
    for file in PACKAGE_FILES:
        for line, name in imports(file):
            assert name != 'absl.logging', f'{file}:{line}: log = logging.getLogger(__name__), as elsewhere'


def test_files_are_written_whole():
    """What a later command reads is whole or not there: what is written to is `atomic_write(…) as partial`
    or in `atomic_folder(…) as folder`."""
    for file in sorted({*PACKAGE_FILES} - WRITERS.keys()):
        tree, partial = parse(file), set()
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.withitem)
                and node.optional_vars
                and re.search(r'atomic_(write|folder)\(', ast.unparse(node.context_expr))
            ):
                partial.add(ast.unparse(node.optional_vars))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                opened = any(isinstance(arg, ast.Constant) and arg.value in ('w', 'wb') for arg in node.args)
                if node.func.attr in ('write_text', 'write_bytes') or (node.func.attr == 'open' and opened):
                    names = {name.id for name in ast.walk(node.func.value) if isinstance(name, ast.Name)}
                    assert names & {*partial, 'output_file'}, f'{file}:{node.lineno}: {ast.unparse(node)}'


def test_torch_is_no_dependency():
    for file in PRODUCT_FILES:
        for node in parse(file).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert 'torch' not in ast.unparse(node), f'{file}:{node.lineno}: imports torch at its top'


def test_no_dynamic_import():
    for file in PRODUCT_FILES:
        for line, name in imports(file):
            assert name not in ('importlib', 'importlib.import_module', 'runpy'), (
                f'{file}:{line}: imports {name}'
            )
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called = node.func.id
                assert called not in ('__import__', 'exec', 'eval'), f'{file}:{node.lineno}: calls {called}'


def test_public_names_are_documented():
    for file in PRODUCT_FILES:
        tree = parse(file)
        assert ast.get_docstring(tree), f'{file} does not say what it is'
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith('_'):
                assert ast.get_docstring(node), f'{file}:{node.lineno}: {node.name} has no docstring'


def test_tests_share_by_helpers():
    for file in sources('tests'):
        for line, name in imports(file):
            shared = f'{file}:{line}: imports {name}; what tests share belongs to tests/helpers'
            assert not any(part.startswith('test_') for part in name.split('.')), shared
            assert name.split('.')[0] != 'bench' or file.startswith('tests/test_bench'), shared
