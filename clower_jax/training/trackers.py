"""Where the metrics of a run go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow (`log_to`).

Each is one class over its own library, imported where it is asked for. Where a server is, how to log in and
whether to wait for one is the library's to know: WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, ….
"""

import importlib.util
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from clower_jax.utils import folder_files
from clower_jax.utils.config_checks import flatten
from input_pipeline.utils import output_file

PROJECT = 'clower-jax'  # of Weights & Biases, experiment of MLflow, where nothing else is named
IDS = 'trackers.json'  # {tracker: the run's name there}, so that a run that goes on is the same one
EXTRAS = ('wandb', 'mlflow')  # libraries that an extra of the same name installs
LONGEST_SETTING = 500  # characters that MLflow takes of a value


class Tracker(Protocol):
    """Something that shows metrics. Steps may come again, where a run went back to its last checkpoint."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """The run's settings by dotted key."""

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Metrics of a step, as '<split>/<name>'."""

    def close(self) -> None:
        """Sees that everything is handed over."""


class TensorBoard:
    """Events in `workdir/tensorboard`."""

    def __init__(self, folder: Path):
        # It imports PyTorch where it is installed, for seconds, to know tensors; None says that it is not.
        without_torch = {'torch': None} if 'torch' not in sys.modules else {}
        sys.modules.update(without_torch)  # type: ignore[arg-type]
        try:
            from tensorboardX import SummaryWriter
        finally:
            for name in without_torch:
                del sys.modules[name]
        self._events = SummaryWriter(str(folder / 'tensorboard'))

    def settings(self, values: Mapping[str, Any]) -> None:
        """Nothing: config.json has them."""

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Scalars '<split>/<name>'."""
        for name, value in values.items():
            self._events.add_scalar(f'{split}/{name}', value, step)
        self._events.flush()

    def close(self) -> None:
        """Flushes what is not yet on disk."""
        self._events.close()


class WeightsAndBiases:
    """A run of wandb, whose own files are in `workdir/wandb`."""

    def __init__(self, folder: Path):
        import wandb

        run_id = _run_id(folder, 'wandb', lambda: uuid.uuid4().hex[:12])
        self._run = wandb.init(
            id=run_id, resume='allow', dir=str(folder), name=folder.resolve().name,
            project=os.environ.get('WANDB_PROJECT', PROJECT),
        )  # fmt: skip
        # Its own count of steps only rises; steps that are taken again are to be seen again.
        self._run.define_metric('step')
        self._run.define_metric('*', step_metric='step')

    def settings(self, values: Mapping[str, Any]) -> None:
        """The config of the run."""
        self._run.config.update(dict(values), allow_val_change=True)

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """'<split>/<name>' over 'step'."""
        self._run.log({'step': step, **{f'{split}/{name}': value for name, value in values.items()}})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class Mlflow:
    """A run of MLflow, in the experiment that MLFLOW_EXPERIMENT_NAME names."""

    def __init__(self, folder: Path):
        from mlflow import entities
        from mlflow.tracking import MlflowClient

        self._entities, self._client = entities, MlflowClient()
        name = os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT)
        existing = self._client.get_experiment_by_name(name)
        experiment = existing.experiment_id if existing else self._client.create_experiment(name)

        def create() -> str:
            return self._client.create_run(experiment, run_name=folder.resolve().name).info.run_id

        self._id = _run_id(folder, 'mlflow', create)
        self._client.set_terminated(self._id, 'RUNNING')

    def settings(self, values: Mapping[str, Any]) -> None:
        """Tags of the run, for its parameters could never change."""
        tags = [self._entities.RunTag(key, str(value)[:LONGEST_SETTING]) for key, value in values.items()]
        self._client.log_batch(self._id, tags=tags)

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Metrics '<split>/<name>'."""
        now = round(1000 * time.time())
        metrics = [
            self._entities.Metric(f'{split}/{name}', value, now, step) for name, value in values.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """Says that the run ended."""
        self._client.set_terminated(self._id)


TRACKERS: Mapping[str, Callable[[Path], Tracker]] = {
    'tensorboard': TensorBoard,
    'wandb': WeightsAndBiases,
    'mlflow': Mlflow,
}


def create(log_to: str, folder: Path) -> list[Tracker]:
    """The trackers that `log_to` names, as 'a,b', of the run in `folder`; '' names none."""
    return [TRACKERS[name](folder) for name in _names(log_to)]


def check(log_to: str) -> None:
    """Raises ValueError where `log_to` names what is no tracker, ImportError where its library is missing."""
    for name in _names(log_to):
        if name not in TRACKERS:
            raise ValueError(f'log_to={log_to!r}: {name!r} must be one of {", ".join(TRACKERS)}')
        if name in EXTRAS and importlib.util.find_spec(name) is None:
            raise ImportError(f'log_to={log_to!r}: {name} is not installed: pip install "clower-jax[{name}]"')


def _names(log_to: str) -> list[str]:
    return [name.strip() for name in log_to.split(',') if name.strip()]


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """config.json by dotted key, without its history."""
    return flatten({key: value for key, value in settings.items() if key != 'history'})


def _run_id(folder: Path, tracker: str, create: Callable[[], str]) -> str:
    """What the run in `folder` is called by a tracker: as it was before, else anew."""
    path = folder / IDS
    ids = folder_files.read_json(path) if path.is_file() else {}
    if not isinstance(ids.get(tracker), str):
        ids[tracker] = create()
        output_file.write_json(path, ids)
    return ids[tracker]
