"""Checkpoints of a run: asynchronous, atomic, the newest few kept. The only file that knows Orbax."""

import contextlib
import functools
import logging
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from clower_jax.checkpoints import tensorstore_leak
from clower_jax.checkpoints.digests import (
    BEST,
    DAMAGED_PREFIX,
    FOLDER,
    WRITTEN_LAST,
    has_all_files,
    newest_intact,
    quarantine,
    write_digests,
)
from clower_jax.checkpoints.train_state import TrainState

__all__ = ['BEST', 'FOLDER', 'Checkpoints']


class Checkpoints:
    """The checkpoints under `<workdir>/<folder>`. Use as a context manager: leaving it waits for the last.

    A folder is complete or it does not count: a process killed while saving leaves the one before. What is
    read is the newest that is intact (see `digests.newest_intact`), or nothing.
    """

    def __init__(self, workdir: str | Path, keep: int = 1, read_only: bool = False, folder: str = FOLDER):
        self.folder = Path(workdir).absolute() / folder
        _quieten_orbax()
        tensorstore_leak.contain(_orbax_metrics())
        context = ocp.Context()
        # Called by the first process alone, when all have written their part and before it counts. No method:
        # Orbax copies its options, and with a method what it is bound to.
        context.asynchronous.post_finalization_callback = lambda: self._write_digests()
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            context=context,
            preservation_policy=_PreserveNewest(max(1, keep), self.folder),
            cleanup_tmp_directories=not read_only,  # another run may be saving there just now
        )
        self._saving: int | None = None
        self._response: Any = None

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = kind is not None
        try:
            self._finish_saving()
        except OSError:
            failed = True
            raise
        finally:
            with contextlib.suppress(*[Exception] * failed):  # it would tell what failed again, at length
                self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest intact checkpoint; None where there is none at all.

        Raises ValueError where there are some and none is intact.
        """
        return newest_intact(self.folder).step

    def save(self, state: TrainState) -> None:
        """Starts saving `state`; returns as soon as its arrays are copied. A step already saved is left.

        Raises OSError where the save before could not be finished.
        """
        self._save(int(state.step), {'params': state.params, 'rest': _training_state(state)})

    def save_params(self, step: int, params: dict) -> None:
        """Starts saving parameters alone: enough to go on from (`init_from`), to evaluate, to export."""
        self._save(step, {'params': params})

    def quarantine_damaged(self) -> list[str]:
        """Renames checkpoints that are damaged and newer than the newest intact one, from which a run goes
        on; returns what each is called and what is wrong with it. Several processes call it together.

        Raises ValueError where none is intact, or the processes do not find the same.
        """
        newest = newest_intact(self.folder)
        if jax.process_count() > 1:  # also: all have looked before one renames
            steps = multihost_utils.process_allgather(np.asarray(-1 if newest.step is None else newest.step))
            if len(set(steps.tolist())) > 1:
                raise ValueError(
                    f'the newest intact checkpoint in {self.folder} is, by process: {steps.tolist()}. They '
                    'must all see the same folder: start them again where they do'
                )
        messages = []
        for step, reason in newest.damaged.items():
            is_first_process = jax.process_index() == 0
            name = quarantine(self.folder, step).name if is_first_process else f'{DAMAGED_PREFIX}{step}'
            messages.append(f'{self.folder.name}/{name}: {reason}')
        if messages:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices('damaged checkpoints are set aside')
            self._checkpointer.reload()
        return messages

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, placed as the shardings of `abstract` say.

        The device count may differ from the one that saved. Raises ValueError where shapes differ.
        """
        parts = {'params': abstract.params, 'rest': _training_state(abstract)}
        if 'rest' not in self._metadata():
            folder = self._checkpointer.directory.parent
            raise ValueError(
                f'{folder} holds parameters alone, no training that could go on. Start one from them: '
                f'--config.init_from={folder} and another --workdir'
            )
        self._check_shapes(parts['params'])
        loaded = self._load(parts)
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
        return self._load({'params': abstract_params})['params']

    def load_params(self, paths: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Path → array, on the host, of the newest checkpoint's parameters; `paths`: of these alone."""
        shapes = self.param_shapes()
        flat = {path: np.empty(shapes[path], np.float32) for path in (shapes if paths is None else paths)}
        if not flat:
            return {}
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            abstract = {'params': flax.traverse_util.unflatten_dict(flat, sep='/')}
            loaded = self._load(abstract)['params']
        return flax.traverse_util.flatten_dict(loaded, sep='/')

    def param_shapes(self) -> dict[str, tuple[int, ...]]:
        """Path → shape of each parameter of the newest checkpoint."""
        return _shapes(self._metadata()['params'])

    def _save(self, step: int, parts: dict[str, Any]) -> None:
        self._finish_saving()
        if any(saved.step == step for saved in self._checkpointer.checkpoints):
            return
        self._saving = step
        self._response = self._checkpointer.save_checkpointables_async(step, parts, force=True)
        if jax.process_index() == 0:
            self._response.on_complete(lambda _: write_digests(self.folder / str(step)))

    def _finish_saving(self) -> None:
        """Waits for the save on its way, if there is one. Its result must be taken: until then it holds a
        thread and three descriptors."""
        response, self._response = self._response, None
        if response is not None:
            with self._raise_as(self._saving, 'could not be saved', OSError):
                response.result()

    def _write_digests(self) -> None:
        for folder in self.folder.iterdir():  # no glob: `re` keeps a pattern of every step
            if folder.name.startswith(f'{self._saving}.') and 'tmp' in folder.name:
                write_digests(folder, exclude=WRITTEN_LAST)

    def _load(self, parts: dict[str, Any]) -> dict[str, Any]:
        step = self.latest_step
        with self._raise_as(step, 'cannot be read', ValueError):
            return self._checkpointer.load_checkpointables(step, parts)

    def _metadata(self) -> dict:
        step = self.latest_step
        with self._raise_as(step, 'cannot be read', ValueError):
            metadata = self._checkpointer.checkpointables_metadata(step).metadata
            for name, part in metadata.items():
                if part is None:  # Orbax only warns
                    raise ValueError(f'{name}/ is damaged')
            return metadata

    @contextlib.contextmanager
    def _raise_as(self, step: int | None, what: str, kind: type[Exception]) -> Iterator[None]:
        """Errors of Orbax, which are many kinds and have many lines, on one line that names the folder."""
        try:
            yield
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise kind(f'{self.folder / str(step)} {what}: {reason}') from error

    def _check_shapes(self, params: dict) -> None:
        """Raises ValueError naming each parameter that differs, both ways."""
        saved, expected = self.param_shapes(), _shapes(params)
        problems = [
            f'{name}: {saved[name]} saved, {expected[name]} wanted'
            for name in sorted(set(saved) & set(expected))
            if saved[name] != expected[name]
        ]
        problems += [f'{name}: saved, not in this model' for name in sorted(set(saved) - set(expected))]
        problems += [f'{name}: in this model, not saved' for name in sorted(set(expected) - set(saved))]
        if problems:
            raise ValueError(
                f'{self._checkpointer.directory} holds another model than the config describes:\n  '
                + '\n  '.join(problems[:20])
                + (f'\n  … {len(problems) - 20} more' if len(problems) > 20 else '')
                + '\nGive the model sizes and vocabulary it was trained with, or another --workdir.'
            )


def _orbax_metrics() -> ModuleType | None:
    """The module of Orbax that asks TensorStore for metrics: private, so later versions may be without it."""
    try:
        from orbax.checkpoint._src.serialization import tensorstore_utils
    except ImportError:
        return None
    return tensorstore_utils


@functools.cache
def _quieten_orbax() -> None:
    """Once a process. What fails is raised, and told on one line; Orbax logs it at length before. Of arrays
    that cannot be read the first is that error: what TensorStore answers of the others nobody takes, or it
    finds Orbax's event loop closed, and each would be a traceback on stderr."""
    hook = sys.unraisablehook

    def unless_late(unraisable: Any) -> None:
        if not (unraisable.object is None and str(unraisable.exc_value) == 'Event loop is closed'):
            hook(unraisable)

    def is_no_error_of_orbax(record: logging.LogRecord) -> bool:
        return not (
            'orbax' in record.pathname and (record.exc_info or 'Error details' in record.getMessage())
        )

    def is_no_late_answer(record: logging.LogRecord) -> bool:
        return not (record.exc_info and 'tensorstore' in str(record.exc_info[1]))

    sys.unraisablehook = unless_late
    logging.getLogger('absl').addFilter(is_no_error_of_orbax)
    logging.getLogger('asyncio').addFilter(is_no_late_answer)


class _PreserveNewest:
    """Which checkpoints stay: the newest `keep` of those that look whole, and whatever is between them. One
    that was damaged takes no other's place."""

    def __init__(self, keep: int, folder: Path):
        self._keep, self._folder = keep, folder

    def should_preserve(self, checkpoints: Sequence, *, context: Any) -> list[bool]:
        """Orbax asks when a save, the last of these, is on its way."""
        steps = [saved.step for saved in checkpoints]
        intact = [step for step in steps[:-1] if has_all_files(self._folder / str(step))]
        oldest = [*intact, steps[-1]][-self._keep :][0]
        return [step >= oldest for step in steps]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape) for path, leaf in leaves
    }


def _training_state(state: TrainState) -> dict:
    scale = state.loss_scale
    return {
        'step': state.step,
        'opt_state': state.opt_state,
        'bad_steps': state.bad_steps,
        'loss_scale': {'scale': scale.scale, 'finite_steps': scale.finite_steps},
    }
