"""Weights to and from Hugging Face folders, and from Google's TensorFlow checkpoints.

    python -m clower_jax.convert export --checkpoint runs/pretrain-base --output clower-char
    python -m clower_jax.convert import --source bert-base-chinese --output runs/bert-base-chinese
    python -m clower_jax.convert push --folder clower-char --repository OWNER/clower-char

The first writes a folder that transformers loads with no code of ours, the second a workdir that runs start
from, that fine-tuned heads are evaluated in, and that can be exported again; the third uploads what the first
wrote to the Hugging Face hub.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from input_pipeline.utils import garbage

if __name__ == '__main__':  # before the imports, which are most of a short command's time
    garbage.collect_seldom()

import flax.traverse_util
import jax
from ml_collections import ConfigDict

from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.export import bert_folder
from clower_jax.interop import hf_bert, model_hub, vocab_alignment, word_segmenter
from clower_jax.interop.init_weights import Report, load_initial
from clower_jax.interop.weight_sources import SourceInfo, is_workdir, source_info
from clower_jax.models.bert import EncoderConfig
from clower_jax.models.clower import VIEWS, Clower
from clower_jax.objectives import registry
from clower_jax.objectives.base import INIT_IDS, initial_params
from clower_jax.utils import output_folder


def import_weights(source: str | Path, workdir: str | Path) -> Report:
    """Makes a workdir of a Hugging Face folder or a TensorFlow checkpoint of a BERT, its head included.

    An encoder without a head of ours becomes both encoders of a pre-training run. What the source has not is
    drawn as a new run with seed 0 draws it, listed in config.json (`imported.random`), and not exported.

    Returns:
      What was left at random values, and what of the source was not used.

    Raises:
      ValueError: the source is no such thing, lacks a part of an encoder or of its head, or `workdir` is in
        the way.
    """
    workdir = Path(workdir).resolve()
    info = source_info(source)
    if is_workdir(source):
        raise ValueError(f'{source} is a workdir already: runs start from it, and export takes it as it is')
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise ValueError(f'{workdir} is in the way: give a folder that does not exist yet')
    output_folder.check_parents(workdir)
    if info.other_head:
        raise ValueError(f'{source} is a classifier of another kind: {info.other_head}')
    config = _config(source, info)
    init = _initialiser(config)
    device_sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device_sharding),
        jax.eval_shape(init, jax.random.key(0)),
    )
    hf_bert.warn_about_tokenizer(info.folder)
    heads = info.model['num_heads']
    params, report = load_initial(
        abstract, source, vocab_alignment.SourceVocabulary(info.tokens, info.base_size), heads, info.labels,
        problem_type=info.problem_type,
    )  # fmt: skip
    random = [path.partition(' ')[0] for path in report.random]
    optional = () if info.task else ('_mlm/', '_sop/', 'pooler.dense/')
    missing = [path for path in report.random if not any(part in path for part in optional)]
    if missing:
        raise ValueError(f'{source} is incomplete. It lacks: {", ".join(missing)}')
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    flat |= _draw(init, random)
    config.imported = {'source': Path(source).name, 'random': random, 'unused': report.unused}
    config.imported.segmenter = hf_bert.read_segmenter(info.folder)

    with output_folder.atomic_folder(workdir, sum(value.nbytes for value in flat.values())) as folder:
        text = json.dumps(config.to_dict(), ensure_ascii=False, indent=2)
        (folder / 'config.json').write_text(text + '\n', encoding='utf-8')
        (folder / 'vocab.txt').write_bytes(''.join(f'{token}\n' for token in info.tokens).encode())
        if thresholds := _thresholds(info.folder):
            text = json.dumps(thresholds, ensure_ascii=False, indent=2)
            (folder / bert_folder.THRESHOLDS).write_text(text + '\n', encoding='utf-8')
        with Checkpoints(folder) as checkpoints:
            checkpoints.save_params(0, flax.traverse_util.unflatten_dict(flat, sep='/'))
    return report


def _thresholds(folder: Path) -> dict[str, float] | None:
    """Of a classifier of several labels that we exported."""
    path = folder / 'config.json'
    return hf_bert.clower_entry(hf_bert.read_config(path), 'thresholds') if path.is_file() else None


def _config(source: str | Path, info: SourceInfo) -> ConfigDict:
    """The settings of an imported workdir, under the names that a run has them."""
    data: dict[str, Any] = {'max_length': info.model['max_positions']}
    data |= {'labels': info.labels} if info.labels else {}
    data |= {'problem_type': info.problem_type} if info.task == 'classify' else {}
    model: dict[str, Any] = {**info.model, **info.rates}
    if info.kind == 'word':
        segmenter = word_segmenter.segmenter_of(source)
        model['kind'] = 'word'
        data |= {'segmenter': segmenter['name'], 'hmm': segmenter.get('hmm', True)}
    return ConfigDict(
        {
            'task': info.task or 'pretrain',
            'seed': 0,
            'dtype': 'float32',
            'init_from': str(source),
            'model': model,
            'data': data,
        }
    )


def _initialiser(config: ConfigDict) -> Callable[[jax.Array], dict]:
    """The `init` of the network that a config describes."""
    if config.task != 'pretrain':
        return registry.from_config(config).init
    model = config.model
    shape = EncoderConfig.from_config(model)
    network = Clower(shape, model.vocab_size, model.base_vocab_size, model.max_positions)
    names = ('ids', 'segments', 'mlm_positions')
    batch = {f'{view}_{name}': INIT_IDS for view in VIEWS for name in names}
    return lambda key: initial_params(network, key, batch)


def _draw(init: Callable[[jax.Array], dict], paths: list[str]) -> dict[str, jax.Array]:
    """These parameters by path as `init` draws them with seed 0; the others are not computed."""

    def init_selected(key: jax.Array) -> dict[str, jax.Array]:
        flat = flax.traverse_util.flatten_dict(init(key), sep='/')
        return {path: flat[path] for path in paths}

    return jax.jit(init_selected)(jax.random.key(0))


def main(argv: list[str] | None = None) -> None:
    """The three commands; errors are messages."""
    parser = argparse.ArgumentParser(prog='python -m clower_jax.convert', description=__doc__.split('\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    export_parser = commands.add_parser('export', help='a run → a Hugging Face folder')
    export_parser.add_argument('--checkpoint', required=True, help='the workdir of a run')
    export_parser.add_argument(
        '--output', required=True, help='the folder to write; its name is the name on the card'
    )
    export_parser.add_argument('--encoder', choices=('char', 'word'), default='char')
    export_parser.add_argument(
        '--keep_word_rows', action='store_true', help='do not prune the token table to its base'
    )
    export_parser.add_argument(
        '--which', choices=('best', 'last'), default='', help='default: best where it was kept'
    )
    export_parser.add_argument(
        '--heads', choices=bert_folder.HEADS, default='all',
        help="of a pre-trained encoder: all (BertForPreTraining), mlm (BertForMaskedLM), none (BertModel)",
    )  # fmt: skip
    export_parser.add_argument(
        '--license', default='', help='of the weights, for the model card: apache-2.0, other, …'
    )
    export_parser.add_argument(
        '--ids_of', default='', metavar='BERT',
        help='a BERT whose vocabulary holds that of the run: give tokens its ids, keep its other rows',
    )  # fmt: skip
    export_parser.add_argument(
        '--base_model', default='', help='what model hubs call the initial weights, for the card'
    )
    export_parser.add_argument(
        '--overwrite', action='store_true', help='replace an older export that nobody changed'
    )
    export_parser.add_argument(
        '--onnx', action='store_true', help='also for ONNX Runtime (needs the extra onnx)'
    )
    import_parser = commands.add_parser(
        'import', help='a Hugging Face folder or TensorFlow checkpoint → a workdir'
    )
    import_parser.add_argument(
        '--source', required=True, help='the folder, or the prefix of a TensorFlow checkpoint'
    )
    import_parser.add_argument('--output', required=True, help='the workdir to make')
    push_parser = commands.add_parser('push', help='an exported folder → the Hugging Face hub')
    push_parser.add_argument('--folder', required=True, help='that export wrote')
    push_parser.add_argument('--repository', required=True, help='OWNER/NAME; made where there is none')
    push_parser.add_argument('--private', action='store_true', help='make it a private one')
    args = vars(parser.parse_args(argv))
    jax.config.update('jax_platforms', 'cpu')  # nothing is computed here that an accelerator would help with
    command = args.pop('command')
    try:
        if command == 'export':
            folder = bert_folder.export(args.pop('checkpoint'), **args)
            print(f'{folder} is ready; its README.md, a model card, says how to use it')
        elif command == 'push':
            print(f'Uploaded: {model_hub.push(args["folder"], args["repository"], args["private"])}')
        else:
            report = import_weights(args['source'], args['output'])
            for text, names in (('Left at random values', report.random), ('Not used', report.unused)):
                if names:
                    print(f'{text} ({len(names)}): {", ".join(names)}')
            print(f'{args["output"]} is ready: give it as --config.init_from, or to export')
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'convert {command}: {error}')


if __name__ == '__main__':
    main()
