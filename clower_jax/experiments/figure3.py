"""How far the vectors of words are from those of their characters (the paper, Figure 3)."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from matplotlib.patches import Patch
from ml_collections import ConfigDict

from clower_jax.interop import init_weights, weight_sources
from clower_jax.models.clower import VIEWS
from clower_jax.models.kinds import KINDS
from clower_jax.objectives.pretraining import Pretrain
from clower_jax.ops import losses
from clower_jax.ops.linear import rows_at
from clower_jax.parallel import precision
from clower_jax.utils import figures
from clower_jax.utils.run_config import read_run_config
from input_pipeline.utils import output_file

log = logging.getLogger(__name__)

GROUPS = {'2': 'two characters', '3+': 'three or more characters'}
PAPER_SHARE = 0.721  # of words of two characters, section 5.2
MEASURES = {'cosine': 'Cosine', 'euclidean': 'Euclidean distance'}
CONTROL = '_other'  # of a measure, against the characters of another word
FEW_MASKS = 1e-6  # of a text's tokens: one, the least there can be, and it is put back

Distances = dict[str, np.ndarray]


def models(config: ConfigDict) -> dict[str, Path]:
    """The workdirs to measure by name, as `config.models` or `config.init_from` has them.

    Raises ValueError where there is none, or two of a name.
    """
    entries = [entry for entry in config.models.split(',') if entry]
    if bool(entries) == bool(config.init_from):
        raise ValueError(
            'give the workdir of a pre-training run, --config.init_from=W, or several of them: '
            '--config.models=NAME=W,NAME=W'
        )
    pairs = [entry.rpartition('=')[::2] for entry in entries or [config.init_from]]
    named = {name or Path(folder).resolve().name: Path(folder) for name, folder in pairs}
    if len(named) < len(pairs):
        raise ValueError(f'models={config.models}: two have the same name; write NAME=WORKDIR for each')
    return named


def config_of(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config of a pre-training run, changed so that its batches hold held-out text as it is, in order,
    with words to measure, a text a row.

    Raises ValueError where there is no such run, or it has no word encoder.
    """
    if not weight_sources.is_workdir(workdir) or not (workdir / 'config.json').is_file():
        raise ValueError(f'{workdir} is no workdir of a pre-training run')
    run_config = ConfigDict(read_run_config(workdir))
    if run_config.task != 'pretrain' or KINDS[run_config.model.kind].views != VIEWS:
        raise ValueError(f'{workdir} has no word encoder, whose vectors could be compared')
    if config.data.corpus:
        run_config.data.corpus = config.data.corpus
    elif not Path(run_config.data.corpus, 'manifest.json').is_file() and (workdir / 'corpus').is_dir():
        run_config.data.corpus = str(workdir / 'corpus')  # the workdir was moved
    run_config.batch_size, run_config.dtype = config.batch_size, config.dtype
    run_config.data.update(
        char_length=0, word_length=0, pack=False, mask_rate=FEW_MASKS, text='',
        masking='words', explored_masks=1,
        max_anchors=config.data.max_anchors, max_anchor_length=0, eval_examples=config.data.eval_examples,
    )  # fmt: skip
    run_config.loss.update(sop_on='none', contrast_on='token')
    return run_config


def measure(
    run_config: ConfigDict, workdir: Path, batches: Iterable[dict[str, np.ndarray]], seed: int = 0
) -> dict[str, Distances]:
    """For each of GROUPS, the distances of every word of `batches` from its characters, fp32 [N], by measure;
    and under its name + CONTROL those from the characters of another word of the batch, chosen at random.

    `run_config`: a resolved `config_of`. A word that chance paired with itself has no control.

    Raises ValueError where the batches hold no word.
    """
    model = Pretrain.network(run_config)
    with init_weights.open_checkpoints(workdir) as checkpoints:
        parts = ('embeddings/', 'coarse_embeddings/', *(f'{view}_encoder/' for view in VIEWS))
        paths = [path for path in checkpoints.param_shapes() if path.startswith(parts)]
        flat = checkpoints.load_params(paths)
    precision.check_finite(flat, str(workdir))
    params = jax.device_put(flax.traverse_util.unflatten_dict(flat, sep='/'))

    @jax.jit
    def vectors(params: dict, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        char, word = (
            model.apply(
                {'params': params}, view, batch[f'{view}_ids'], batch[f'{view}_segments'], method='encode'
            )
            for view in VIEWS
        )
        of_characters = losses.span_means(char, batch['anchor_char_start'], batch['anchor_char_length'])
        return rows_at(word, batch['anchor_word_position']).astype('float32'), of_characters

    random = np.random.default_rng(seed)
    by_group: dict[str, dict[str, list[np.ndarray]]] = {group: {} for group in GROUPS}
    with jax.default_matmul_precision(precision.matmul_precision(run_config.dtype)):
        for batch in batches:
            real = batch['anchor_char_length'] > 0
            batch = batch | {f'{view}_ids': unmasked(batch, view) for view in VIEWS}
            words, chars = (np.asarray(x)[real] for x in vectors(params, batch))
            ids, length = batch['anchor_ids'][real], batch['anchor_char_length'][real]
            other = random.permutation(len(ids))
            is_other_word = ids != ids[other]
            for group, chosen in (('2', length == 2), ('3+', length > 2)):
                for name, rows, other_rows in (
                    ('', chosen, chosen),
                    (CONTROL, chosen & is_other_word, other[chosen & is_other_word]),
                ):
                    for measure_name, values in distances(words[rows], chars[other_rows]).items():
                        by_group[group].setdefault(measure_name + name, []).append(values)
    if not any(map(len, (part for values in by_group.values() for part in values.get('cosine', ())))):
        raise ValueError(f'the held-out text of {run_config.data.corpus} has no word to measure')
    return {
        group: {name: np.concatenate(parts) for name, parts in values.items()}
        for group, values in by_group.items()
    }


def unmasked(batch: Mapping[str, np.ndarray], view: str) -> np.ndarray:
    """int32 [B, L]: the ids of a view with what was masked put back."""
    ids, labels = batch[f'{view}_ids'].copy(), batch[f'{view}_mlm_labels']
    rows, columns = np.nonzero(labels >= 0)
    ids[rows, batch[f'{view}_mlm_positions'][rows, columns]] = labels[rows, columns]
    return ids


def distances(a: np.ndarray, b: np.ndarray) -> Distances:
    """By measure, [N]: of each row of a [N, D] from the same row of b."""
    norms = np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), np.finfo(np.float32).tiny)
    return {'cosine': (a * b).sum(axis=1) / norms, 'euclidean': np.linalg.norm(a - b, axis=1)}


def summary(values: np.ndarray) -> dict[str, float | int | None]:
    """count, and mean, standard deviation (n − 1) and median of numbers [N]; null where there are too few."""
    return {
        'count': len(values),
        'mean': float(values.mean()) if len(values) else None,
        'std': float(values.std(ddof=1)) if len(values) > 1 else None,
        'median': float(np.median(values)) if len(values) else None,
    }


def write(
    workdir: str | Path,
    distances_by_model: Mapping[str, dict[str, Distances]],
    about: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """Writes similarity.json and similarity.png; returns what is in the former: for each model what `about`
    says of it (its `corpus`, and what `word_lengths.two_character_share` found there, as
    `two_character_words`), and for each group and measure a `summary`."""
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        model: {
            **about[model],
            'groups': {
                group: {name: summary(values) for name, values in measures.items()}
                for group, measures in groups.items()
            },
        }
        for model, groups in distances_by_model.items()
    }
    output_file.write_json(folder / 'similarity.json', results)
    draw(distances_by_model, folder / 'similarity.png')
    return results


def describe(results: Mapping[str, dict[str, Any]]) -> str:
    """What `write` returns as a line for each model and group, and one for each corpus."""
    lines = []
    for model, about in results.items():
        for group, title in GROUPS.items():
            measures = about['groups'][group]
            shown = (
                f'{name} {measures[name]["mean"]:.3f} (another word {measures[name + CONTROL]["mean"]:.3f})'
                for name in MEASURES
                if measures[name + CONTROL]['count']
            )
            lines.append(f'{model}, {measures["cosine"]["count"]:,} words of {title}: {", ".join(shown)}')
    shares = {about['corpus']: about['two_character_words'] for about in results.values()}
    for corpus, share in shares.items():
        shares_text = ' and '.join(
            f'{share[of]:.1%} of the {what}'
            for of, what in (('corpus', 'running words'), ('vocabulary', 'words in the vocabulary'))
            if share[of] is not None
        )
        lines.append(
            f'{corpus}, of Chinese words longer than one character two have {shares_text} '
            f"(the paper's corpus: {PAPER_SHARE:.1%})"
        )
    return '\n'.join(lines)


def draw(distances_by_model: Mapping[str, dict[str, Distances]], path: str | Path) -> None:
    """As in the paper, words of two characters on top, longer ones below; beside each other the measures. A
    box for each model, filled for the words' own characters, hollow for another word's. Boxes are quartiles,
    whiskers the 5th and the 95th percentile."""
    names = figures.drawable([*distances_by_model], path)
    color_cycle = figures.colors()
    colors = [color_cycle[position % len(color_cycle)] for position in range(len(distances_by_model))]
    width = max(4.4, 2.4 + 1.1 * len(distances_by_model))  # of a panel, whose title wants the former
    figure, axes = figures.subplots(
        len(GROUPS), len(MEASURES), sharex=True, sharey='col', figsize=(width * len(MEASURES), 6.4)
    )
    for row, (group, group_title) in zip(axes, GROUPS.items()):
        for axis, (measure, title) in zip(row, MEASURES.items()):
            for position, (model, color) in enumerate(zip(distances_by_model, colors)):
                for name, box_position, filled in (
                    (measure, position - 0.19, True),
                    (measure + CONTROL, position + 0.19, False),
                ):
                    axis.boxplot(
                        distances_by_model[model][group][name],
                        positions=[box_position],
                        widths=0.3,
                        whis=(5, 95),
                        showfliers=False,
                        patch_artist=True,
                        boxprops={'facecolor': color if filled else 'white', 'edgecolor': color},
                        medianprops={'color': 'black' if filled else color, 'lw': 1.5},
                        whiskerprops={'color': color},
                        capprops={'color': color},
                        manage_ticks=False,
                    )
            axis.set_title(f'{title}, words of {group_title}', fontsize=10)
            axis.set_xticks(range(len(distances_by_model)), names, fontsize=9)
            axis.set_xlim(-0.5, len(distances_by_model) - 0.5)
            axis.grid(axis='y', alpha=0.25)
    handles = [
        Patch(facecolor='gray', edgecolor='gray', label='its own characters'),
        Patch(facecolor='white', edgecolor='gray', label="another word's characters"),
    ]
    figure.legend(handles=handles, loc='lower center', ncols=2, fontsize=9, frameon=False)
    figure.suptitle('Vectors of held-out words against the means of characters', fontsize=11)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figures.save(figure, path)
