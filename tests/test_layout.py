"""The layout is the architecture: imports run downwards, files are short, the public is documented."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each package from the bottom up: a module imports only what stands before it.
LAYERS = {
    'clower_jax': (
        *('last_words', 'settings', 'command_line', 'output_file', 'folder_files', 'checkpoint_files'),
        'checkpoints',
        *(
            'metrics',
            'resampling',
            'losses',
            'precision',
            'optim',
            'sharding',
            'figures',
            'writer',
            'products',
            'dropout',
        ),
        *('attention', 'linear_cross_entropy', 'contrast', 'bert', 'heads'),
        *('model', 'multigrained', 'kinds'),
        *('pretraining', 'cmlm', 'sentence_tasks', 'mlctl', 'auto_mlm', 'tasks'),
        *('train_state', 'train_step', 'checkpoint', 'tensor_names', 'tf_checkpoint'),
        *('hugging_face', 'weight_files', 'token_rows', 'weight_sources', 'initial'),
        *('sentence_folder', 'wordpiece', 'encoder', 'hidden_states'),
        *('card_examples', 'model_card', 'output_folder', 'source_ids'),
        *(
            'export',
            'convert',
            'evaluate',
            'progress',
            'start',
            'train',
            'finetune',
            'source',
        ),
        *('paper_tables', 'tables', 'replay'),
        *('encode', 'similarity', 'linear_probes', 'probe', 'word_report', 'word_view', 'jobs'),
    ),
    'input_pipeline': (
        *('english_words', 'scorers', 'vector_scores', 'segment', 'lexicon', 'tokenizer'),
        *('partial_folder', 'counts', 'compressed', 'json_values', 'text_fields', 'formats'),
        *('sources', 'examples', 'word_tokenizer', 'layout', 'choosing', 'masking'),
        *('corpus_files', 'records', 'manifest'),
        *('beam_job',),
        *('base_block', 'build_vocab', 'build_corpus'),
        *(
            'packing',
            'loader',
            'word_lengths',
            'similar_words',
            'word_contexts',
            'batches',
            'hub',
            'locations',
            'buckets',
        ),
        *('labelled_formats', 'labelled', 'word_views'),
        *('classification', 'questions', 'windows', 'answers', 'reading', 'sentences', 'vector_sets'),
        *('mirror',),
        'word_materials',
        *('word_groups', 'translations', 'masked_texts', 'finetuning'),
    ),
}
# A library that one file alone may import, so that replacing it is a change to that file.
SOLE_IMPORTERS = {
    'orbax': 'clower_jax/checkpoint.py',
    'apache_beam': 'input_pipeline/beam_job.py',
    'torch': 'clower_jax/weight_files.py',  # only to open a pytorch_model.bin, see below
}
# What, like run.py, joins the two packages: commands, and the encoder, which has texts cut into words where
# its model reads words.
JOINS_PACKAGES = {
    'clower_jax/jobs.py',
    'clower_jax/source.py',
    'clower_jax/replay.py',
    'clower_jax/encoder.py',
    'clower_jax/word_view.py',
}


def sources(*folders: str) -> list[str]:
    """The Python files of these folders, as paths from the repository's root."""
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob('*.py'))


PACKAGE_FILES = sources(*LAYERS)
PRODUCT_FILES = [*PACKAGE_FILES, *sources('configs'), *(['run.py'] if (ROOT / 'run.py').exists() else [])]


def parse(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding='utf-8'), filename=file)


def imports(file: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything the file imports, wherever; `from a import b` counts as `a.b`."""
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{file}:{node.lineno}: write the whole name instead of a relative import'
            yield from ((node.lineno, f'{node.module}.{alias.name}') for alias in node.names)


@pytest.mark.parametrize('file', PACKAGE_FILES)
def test_imports_run_downwards(file):
    package, module = Path(file).parts[0], Path(file).stem
    layers = LAYERS[package]
    assert module in (*layers, '__init__'), f'{file}: give the module its place in LAYERS'
    # Itself too: a command imports itself by its name, so that what Beam pickles is not called `__main__`.
    # The package is a door to what is in it.
    reachable = layers[: layers.index(module) + 1] if module in layers else layers
    for line, name in imports(file):
        target, _, rest = name.partition('.')
        if target == package and rest:
            assert rest.split('.')[0] in reachable, f'{file}:{line}: {name} is not below {module}'


@pytest.mark.parametrize('file', PACKAGE_FILES)
def test_packages_meet_only_in_the_batch(file):
    package = Path(file).parts[0]
    others = {*LAYERS, 'configs', 'run', 'tests', 'bench'} - {package}
    if file in JOINS_PACKAGES:
        others -= set(LAYERS)
    for line, name in imports(file):
        assert name.split('.')[0] not in others, f'{file}:{line}: imports {name}'


@pytest.mark.parametrize('library', SOLE_IMPORTERS)
def test_one_file_imports(library):
    users = {file for file in PRODUCT_FILES for _, name in imports(file) if name.split('.')[0] == library}
    assert users <= {SOLE_IMPORTERS[library]}


@pytest.mark.parametrize('file', PRODUCT_FILES)
def test_torch_is_no_dependency(file):
    for node in parse(file).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert 'torch' not in ast.unparse(node), f'{file}:{node.lineno}: imports torch at its top'


@pytest.mark.parametrize('file', PRODUCT_FILES)
def test_no_dynamic_import(file):
    for line, name in imports(file):
        assert name not in ('importlib', 'importlib.import_module', 'runpy'), f'{file}:{line}: imports {name}'
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = node.func.id
            assert called not in ('__import__', 'exec', 'eval'), f'{file}:{node.lineno}: calls {called}'


@pytest.mark.parametrize('file', PRODUCT_FILES)
def test_public_names_are_documented(file):
    tree = parse(file)
    assert ast.get_docstring(tree), f'{file} does not say what it is'
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith('_'):
            assert ast.get_docstring(node), f'{file}:{node.lineno}: {node.name} has no docstring'
