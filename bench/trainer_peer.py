"""Fine-tuning with the Trainer of transformers, timed: a contender of bench/finetune.py, which starts it.

python bench/trainer_peer.py CASE [--device gpu] [--compile]

Its rows are those that this project reads and tokenises; batches, padding, model, optimiser and loop are the
Trainer's own, set up as well as its options allow: rows of like length together, padded to the batch's
longest, fused AdamW, SDPA. Evaluation and saving are once an epoch, as this project's.
"""

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from bench import finetune  # noqa: E402
from clower_jax.objectives.base import Split  # noqa: E402
from input_pipeline.features import buckets  # noqa: E402
from input_pipeline.finetuning import data as finetuning_data  # noqa: E402
from input_pipeline.text.vocabulary import Vocabulary, read_tokens  # noqa: E402

WARM_UP_STEPS = 2
MULTIPLE = 8  # rows are padded to a multiple of it, as this project's are


class Trainer(transformers.Trainer):
    """Evaluates rows in their order, which is by length; the Trainer would shuffle groups of like length."""

    def _get_eval_sampler(self, eval_dataset):
        return torch.utils.data.SequentialSampler(eval_dataset)


class Watch(transformers.TrainerCallback):
    """What the table says of a training: seconds, tokens computed, learning rates."""

    def __init__(self, tokenizer: transformers.BertTokenizerFast, device: str):
        self._collate = transformers.DataCollatorWithPadding(tokenizer, pad_to_multiple_of=MULTIPLE)
        self._device = device
        self._training = False
        self.steps_seconds = 0.0  # without evaluation and saving
        self.computed_tokens = 0
        self.rates: list[float] = []

    def collate(self, rows: list[dict]) -> dict:
        """A batch, padded to its longest row."""
        batch = self._collate(rows)
        if self._training:
            self.computed_tokens += batch['input_ids'].numel()
        return batch

    def on_train_begin(self, *args, **kwargs):
        self.began = time.perf_counter()

    def on_epoch_begin(self, *args, **kwargs):
        self._training, self._epoch = True, time.perf_counter()

    def on_pre_optimizer_step(self, *args, optimizer, **kwargs):
        self.rates.append(optimizer.param_groups[0]['lr'])

    def on_epoch_end(self, *args, **kwargs):
        if self._device == 'gpu':
            torch.cuda.synchronize()
        self.steps_seconds += time.perf_counter() - self._epoch
        self._training = False


def rows_of(split: finetuning_data.Examples, numbers: Sequence[int]) -> list[dict]:
    """Rows of a split as the Trainer takes them."""
    rows = []
    for number in numbers:
        planned = buckets.Planned(int(split.rows.lengths[number]), np.array([number]))
        arrays = split.rows.batch(planned, 1) | split.targets(planned, 1)
        row = {
            'input_ids': arrays['char_ids'][0].tolist(),
            'token_type_ids': arrays['char_segments'][0].tolist(),
        }
        row['attention_mask'] = [1] * planned.width
        if 'labels' in arrays:
            row['labels'] = int(arrays['labels'][0])
        else:
            row['start_positions'], row['end_positions'] = map(int, arrays['span'][0])
        rows.append(row)
    return rows


def score(split: Split, order: np.ndarray, prediction: transformers.EvalPrediction) -> dict:
    """The metrics of a pass over rows in this order, by this project's scorers."""
    logits = prediction.predictions
    names = ('start_logits', 'end_logits') if isinstance(logits, tuple) else ('logits',)
    outputs = dict(zip(names, logits if isinstance(logits, tuple) else (logits,)))
    scores = split.score(split.decode([outputs | {'example': order}]))
    if 'logits' in outputs:
        scores['acc'] = float((logits.argmax(-1) == prediction.label_ids).mean())
    return scores


def train(config: ConfigDict, folder: Path, device: str, compiled: bool = False) -> dict:
    """Trains and evaluates as a resolved run config says, from the Hugging Face folder `config.init_from`.

    Returns:
      What bench/finetune.py wants to know; see there.
    """
    tokenizer = transformers.BertTokenizerFast.from_pretrained(config.init_from)
    tokens = read_tokens(Path(config.init_from, 'vocab.txt'))
    config, data = finetuning_data.prepare(config, Vocabulary(tokens, len(tokens)))
    training, held_out = data.splits['train'], data.splits['validation']
    order = np.argsort(held_out.rows.lengths, kind='stable')
    trained_on, evaluated_on = rows_of(training, range(len(training.rows))), rows_of(held_out, order)
    kind, more = transformers.BertForQuestionAnswering, {}
    if config.task == 'classify':
        kind, more = transformers.BertForSequenceClassification, {'num_labels': len(config.data.labels)}

    def trainer(rows: list[dict], name: str, watch: Watch, **changes) -> Trainer:
        transformers.set_seed(config.seed)
        settings = {
            'num_train_epochs': config.num_epochs,
            'per_device_train_batch_size': config.batch_size,
            'per_device_eval_batch_size': config.batch_size,
            'learning_rate': config.optim.learning_rate,
            'warmup_steps': config.optim.warmup_steps,
            'weight_decay': config.optim.weight_decay,
            'max_grad_norm': config.optim.clip_norm,
            'adam_epsilon': 1e-6,
            'bf16': config.dtype == 'bfloat16',
            'seed': config.seed,
            'train_sampling_strategy': 'group_by_length',
            'eval_strategy': 'epoch',
            'save_strategy': 'epoch',
            'save_total_limit': 1,
            'logging_steps': config.log_every,
            'torch_compile': compiled,
            'use_cpu': device == 'cpu',
            'dataloader_pin_memory': device == 'gpu',
            'report_to': 'none',
            'disable_tqdm': True,
        }
        return Trainer(
            model=kind.from_pretrained(config.init_from, **more),
            args=transformers.TrainingArguments(str(folder / name), **settings | changes),
            train_dataset=rows,
            eval_dataset=evaluated_on,
            data_collator=watch.collate,
            compute_metrics=functools.partial(score, held_out, order),
            processing_class=tokenizer,
            callbacks=[watch],
        )

    began = time.perf_counter()
    longest = np.argsort(training.rows.lengths)[::-1][: WARM_UP_STEPS * config.batch_size]
    trainer(
        [trained_on[row] for row in longest], 'warm', Watch(tokenizer, device), num_train_epochs=1,
        save_strategy='no',
    ).train()  # fmt: skip
    warm_up = time.perf_counter() - began
    watch = Watch(tokenizer, device)
    timed = trainer(trained_on, 'run', watch)
    timed.train()
    seconds = time.perf_counter() - watch.began
    held = [row for row in timed.state.log_history if 'eval_loss' in row]
    timed.predict(evaluated_on)  # as this project's command does at its end
    return {
        'seconds': [seconds],
        'steps_seconds': watch.steps_seconds,
        'warm_up_seconds': warm_up,
        'steps': timed.state.global_step,
        'computed_tokens': watch.computed_tokens,
        'rates': watch.rates,
        'held_out': {
            name: held[-1][f'eval_{name}']
            for name in ('loss', *held_out.metrics)
            if f'eval_{name}' in held[-1]
        },
        'note': f'transformers {transformers.__version__}, torch {torch.__version__}',
    }


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('case', type=Path, help='what bench/finetune.py wrote')
    parser.add_argument('--device', choices=('cpu', 'gpu'), default='cpu')
    parser.add_argument('--compile', action='store_true', help='with torch.compile')
    flags = parser.parse_args()
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(train(finetune.config_of(flags.case), Path(folder), flags.device, flags.compile)))


if __name__ == '__main__':
    main()
