"""From Python what run.py does from the shell, for programs and notebooks:

    import clower_jax
    from configs import classify, pretrain

    config = pretrain.get_config()
    config.data.text = 'my/*.txt'
    clower_jax.pretrain(config, 'runs/mine')

    config = classify.get_config()
    config.init_from, config.data.train = 'runs/mine', 'topics.tsv'
    clower_jax.finetune(config, 'runs/topics')['mean']['validation']['best']
    clower_jax.evaluate('runs/topics', 'others.tsv')
    clower_jax.predict('runs/topics', ['今天天气很好'])

A config is that of a job in configs/. The files that a run writes are those of the command, so that either
goes on with what the other began.
"""

import copy
import json
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from clower_jax import jobs
from clower_jax.objectives import registry
from clower_jax.objectives.registry import SENTENCE_TASKS
from clower_jax.training import evaluate as evaluation
from clower_jax.training import finetune as finetuning
from clower_jax.training.inherited_settings import resolve_source
from clower_jax.utils import config_checks, folder_files
from clower_jax.utils.run_config import read_run_config

Text = str | tuple[str, str]


def pretrain(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Pre-trains, or goes on where the run in `workdir` was stopped.

    Args:
      config: as configs/pretrain.py has it; it is not changed.

    Returns:
      The contents of results.json: `held_out` metrics, steps, what was read and skipped.

    Raises:
      ValueError: with a message for people, as OSError, FloatingPointError and ImportError.
      KeyboardInterrupt: after Ctrl-C, when the run has saved what it was at, so that what was to come after
        it does not begin.
      SystemExit: after SIGTERM, likewise.
    """
    if config.task != 'pretrain':
        raise ValueError(f'task={config.task!r} is no pre-training: take a config of configs/pretrain.py')
    return _train(config, workdir)


def finetune(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Fine-tunes `config.seeds` models, or goes on where the run in `workdir` was stopped.

    Args:
      config: as a fine-tuning job of configs/ has it (classify, cmrc, mirror, …); it is not changed.

    Returns:
      The contents of results.json: metrics of every seed, with `mean` and `std`, by split and by which
      parameters ('best', 'last').

    Raises as `pretrain`.
    """
    if config.task not in registry.OBJECTIVES or config.task == 'pretrain':
        raise ValueError(f'task={config.task!r} is no fine-tuning: take a config such as configs/classify.py')
    config = copy.deepcopy(config)
    config.mode = 'train'
    return _train(config, workdir)


def evaluate(workdir: str | Path, test: str | Path) -> dict[str, float]:
    """A fine-tuned model's metrics on a file, in the form of those that it was trained on. Its predictions
    go to `workdir/evaluate/`.

    Raises ValueError or FileNotFoundError where `workdir` is no fine-tuned model, or the file is missing or
    wrong.
    """
    config = _config_of(workdir, 'evaluate')
    config.data.dev, config.data.test = '', str(test)
    config, vocabulary = resolve_source(config, Path(workdir))
    config, data = jobs.read_data(config, vocabulary)
    return finetuning.apply(config, workdir, data)['test']


class Predictor:
    """A fine-tuned classifier, tagger or reader of texts, in memory: for texts that come bit by bit.

    Args:
      workdir: of the run; of several seeds that of one.
      which: 'best' or 'last' parameters; empty: the best where they were kept.

    Raises ValueError where it is none of these.
    """

    def __init__(self, workdir: str | Path, which: str = ''):
        self._workdir, self._which = Path(workdir), which
        config = _config_of(workdir, 'predict')
        if config.task in SENTENCE_TASKS:
            raise ValueError(f'{workdir} makes vectors, not predictions: clower_jax.Encoder.load reads it')
        if config.task not in ('classify', 'span', 'tag'):
            raise ValueError(f'{workdir} is of the task {config.task!r}: give it to run.py, mode=predict')
        config.data.dataset = ''  # whose files have a form of their own
        for name in {'text_columns', 'label_column', 'language', 'test_language'} & set(config.data):
            config.data[name] = type(config.data[name])()
        self._config, self._vocabulary = resolve_source(config, self._workdir)
        self._evaluator: evaluation.Evaluator | None = None
        self._params: dict = {}

    def __call__(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """A prediction for each text.

        Args:
          texts: to classify: texts, or pairs of them, as in training. To tag: texts. To read: pairs
            (question, context).

        Returns:
          To classify: 'label' and its 'probability', or what predictions.json has of several labels or a
          score. To tag: 'entities', each with 'text', 'type', 'start' and 'end' (exclusive). To read:
          'answer', a part of the context.

        Raises ValueError where they are of the wrong kind.
        """
        if not texts:
            return []
        if isinstance(texts, str) or not all(_is_text(text) for text in texts):
            raise ValueError('texts must be a list of texts, or of pairs of texts')
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, 'questions.json' if self._config.task == 'span' else 'texts.jsonl')
            path.write_text(self._file_of(texts), 'utf-8')
            config = copy.deepcopy(self._config)
            config.data.test = str(path)
            config, data = jobs.read_data(config, self._vocabulary)
            if self._evaluator is None:
                self._evaluator = evaluation.Evaluator.from_config(config)
                self._params = finetuning.restore(self._workdir, self._evaluator, self._which)
            split: Any = data.splits['test']  # a `Split`
            if getattr(split, 'thresholds', None) is not None:
                finetuning.read_thresholds(self._workdir, split.thresholds)

            def write(outputs: evaluation.Outputs) -> dict[str, float]:
                split.write_predictions(Path(folder), split.decode(outputs))
                return {}

            self._evaluator(self._params, data.batches(config, split='test'), write)
            written = Path(folder, 'predictions.json').read_text('utf-8')
        if self._config.task == 'span':
            answers = json.loads(written)
            return [{'answer': answers[str(number)]} for number in range(len(texts))]
        lines = [json.loads(line) for line in written.splitlines()]
        if self._config.task == 'tag':
            return [{'entities': _entities(line['label'])} for line in lines]
        return [{name: line[name] for name in line if name not in ('id', 'where')} for line in lines]

    def _file_of(self, texts: Sequence[Text]) -> str:
        if self._config.task != 'span':
            rows = [
                {'text': text} if isinstance(text, str) else dict(zip(('text_a', 'text_b'), text))
                for text in texts
            ]
            return ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
        pairs = [text for text in texts if not isinstance(text, str)]
        if len(pairs) < len(texts):
            raise ValueError('a reader takes pairs (question, context)')
        paragraphs = [
            {'context': context, 'qas': [{'id': str(number), 'question': question, 'answers': []}]}
            for number, (question, context) in enumerate(pairs)
        ]
        return json.dumps({'version': '', 'data': [{'paragraphs': paragraphs}]}, ensure_ascii=False)


def predict(workdir: str | Path, texts: Sequence[Text]) -> list[dict[str, Any]]:
    """`Predictor` for texts that are there at once."""
    return Predictor(workdir)(texts)


def _entities(by_type: dict[str, dict[str, list]]) -> list[dict[str, Any]]:
    """CLUENER's {type: {text: [[first, last]]}} as a list, in the order of the text."""
    listed = [
        {'text': text, 'type': name, 'start': first, 'end': last + 1}
        for name, texts in by_type.items()
        for text, places in texts.items()
        for first, last in places
    ]
    return sorted(listed, key=lambda entity: entity['start'])


def _is_text(text: Any) -> bool:
    if isinstance(text, str):
        return True
    return isinstance(text, tuple | list) and len(text) == 2 and all(isinstance(part, str) for part in text)


def _train(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    config = copy.deepcopy(config)
    config_checks.check_job(config)
    job = jobs.Job(config, f'configs/{config.task}.py', Path(workdir))
    jobs.run(job)
    if job.stop.requested:
        if job.stop.signal == signal.SIGINT:
            raise KeyboardInterrupt(jobs.NOT_FINISHED)
        raise SystemExit(job.stop.status)
    return folder_files.read_json(Path(workdir, 'results.json'))


def _config_of(workdir: str | Path, mode: str) -> ConfigDict:
    """The config of a fine-tuned model, to put it to use."""
    if not Path(workdir, 'config.json').is_file():
        raise ValueError(f'{workdir} is no fine-tuned model; several seeds have a folder each: seed-0, …')
    config = ConfigDict(read_run_config(workdir))
    if config.task == 'pretrain':
        raise ValueError(f'{workdir} is of pre-training, whose metrics are in its results.json: fine-tune it')
    config.mode = mode
    config.data.buckets = 0  # as many as the rows that come are worth
    return config
