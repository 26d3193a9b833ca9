"""Checkpoints of a run: asynchronous, atomic, the newest few kept. The only file that knows Orbax."""

from collections.abc import Collection
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from clower_jax.train_state import TrainState

FOLDER = 'checkpoints'
BEST = 'best'  # where a fine-tuning run keeps the best on the development set


class Checkpoints:
    """The checkpoints under `<workdir>/<folder>`. Use as a context manager: leaving it waits for the last.

    A folder is complete or it does not count: a process killed while saving leaves the one before.
    """

    def __init__(self, workdir: str | Path, keep: int = 1, read_only: bool = False, folder: str = FOLDER):
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            Path(workdir).absolute() / folder,
            preservation_policy=policies.LatestN(max(1, keep)),
            cleanup_tmp_directories=not read_only,  # another run may be saving there just now
        )

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_) -> None:
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint; None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState) -> None:
        """Starts saving `state`; returns as soon as its arrays are copied. A step already saved is left."""
        step = int(state.step)
        if step == self.latest_step:
            return
        parts = {'params': state.params, 'rest': _rest(state)}
        self._checkpointer.save_checkpointables_async(step, parts, force=True)

    def save_params(self, step: int, params: dict) -> None:
        """Starts saving parameters alone: enough to go on from (`init_from`), to evaluate, to export."""
        if step != self.latest_step:
            self._checkpointer.save_checkpointables_async(step, {'params': params}, force=True)

    def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
        """The newest state (or that of `step`), placed as the shardings of `abstract` say.

        The device count may differ from the one that saved. Raises ValueError where shapes differ.
        """
        parts = {'params': abstract.params, 'rest': _rest(abstract)}
        if 'rest' not in self._metadata():
            folder = self._checkpointer.directory.parent
            raise ValueError(
                f'{folder} holds parameters alone, no training that could go on. Start one from them: '
                f'--config.init_from={folder} and another --workdir'
            )
        self._check_shapes(parts['params'])
        loaded = self._checkpointer.load_checkpointables(step, parts)
        rest = loaded['rest']
        return abstract.replace(
            step=rest['step'],
            params=loaded['params'],
            opt_state=rest['opt_state'],
            bad_steps=rest['bad_steps'],
            loss_scale=abstract.loss_scale.replace(**rest['loss_scale']),
        )

    def restore_params(self, abstract_params: dict) -> dict:
        """The newest checkpoint's parameters alone, placed as the shardings of `abstract_params` say."""
        self._check_shapes(abstract_params)
        return self._checkpointer.load_checkpointables(None, {'params': abstract_params})['params']

    def load_params(self, paths: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Path → array, on the host, of the newest checkpoint's parameters; `paths`: of these alone."""
        shapes = self.param_shapes()
        flat = {path: np.empty(shapes[path], np.float32) for path in (shapes if paths is None else paths)}
        if not flat:
            return {}
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            wanted = {'params': flax.traverse_util.unflatten_dict(flat, sep='/')}
            loaded = self._checkpointer.load_checkpointables(None, wanted)['params']
        return flax.traverse_util.flatten_dict(loaded, sep='/')

    def param_shapes(self) -> dict[str, tuple[int, ...]]:
        """Path → shape of each parameter of the newest checkpoint."""
        return _shapes(self._metadata()['params'])

    def _metadata(self) -> dict:
        return self._checkpointer.checkpointables_metadata(None).metadata

    def _check_shapes(self, params: dict) -> None:
        """Raises ValueError naming each parameter that differs, both ways."""
        saved, wanted = self.param_shapes(), _shapes(params)
        wrong = [
            f'{name}: {saved[name]} saved, {wanted[name]} wanted'
            for name in sorted(set(saved) & set(wanted))
            if saved[name] != wanted[name]
        ]
        wrong += [f'{name}: saved, not in this model' for name in sorted(set(saved) - set(wanted))]
        wrong += [f'{name}: in this model, not saved' for name in sorted(set(wanted) - set(saved))]
        if wrong:
            raise ValueError(
                f'{self._checkpointer.directory} holds another model than the config describes:\n  '
                + '\n  '.join(wrong[:20])
                + (f'\n  … {len(wrong) - 20} more' if len(wrong) > 20 else '')
                + '\nGive the model sizes and vocabulary it was trained with, or another --workdir.'
            )


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape) for path, leaf in leaves
    }


def _rest(state: TrainState) -> dict:
    scale = state.loss_scale
    return {
        'step': state.step,
        'opt_state': state.opt_state,
        'bad_steps': state.bad_steps,
        'loss_scale': {'scale': scale.scale, 'finite_steps': scale.finite_steps},
    }
