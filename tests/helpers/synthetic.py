"""A made-up language for tests: a tiny config, its vocabulary, batches that are a pure function of the step.

A text is a sequence of words; a word is one base token (a character) or a row of the word block, spelled by
two to four base tokens. Both views, masks and anchors follow from it as in the real pipeline.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import pretrain

PAD, UNK, CLS, SEP, MASK = range(5)
BASE_SIZE, VOCAB_SIZE = 40, 60
VALIDATION_EXAMPLES = 20  # of which the last batch of 8 holds only 4
VIEWS = ('char', 'word')


class Vocabulary:
    """Stands in for `input_pipeline.text.vocabulary.Vocabulary`."""

    def __init__(self, base_size: int = BASE_SIZE, vocab_size: int = VOCAB_SIZE):
        special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
        base = special + [chr(0x4E00 + i) for i in range(base_size - len(special))]
        rng = np.random.default_rng(0)
        self._pieces = [
            tuple(int(i) for i in rng.integers(len(special), base_size, rng.integers(2, 5)))
            for _ in range(vocab_size - base_size)
        ]
        self.base_size = base_size
        self.tokens: Sequence[str] = base + [''.join(base[i] for i in pieces) for pieces in self._pieces]

    def pieces(self) -> list[tuple[int, ...]]:
        """The base ids that spell each row of the word block."""
        return self._pieces

    def __len__(self) -> int:
        return len(self.tokens)


def tiny_config(**changes) -> ConfigDict:
    """`configs/pretrain.py` shrunk; changes by dotted key: `tiny_config(**{'loss.sop_on': 'char'})`."""
    config = pretrain.get_config()
    config.total_steps, config.batch_size = 4, 8
    config.log_every = config.eval_every = config.checkpoint_every = 2
    config.optim.warmup_steps = 1
    config.model.update(
        hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_positions=32,
        vocab_size=VOCAB_SIZE, base_vocab_size=BASE_SIZE,
    )  # fmt: skip
    config.data.update(char_length=24, word_length=16, max_anchors=4)
    config.update_from_flattened_dict(changes)
    return config


def initial_shapes(objective) -> dict:
    """Shapes and dtypes of its parameters."""
    return jax.eval_shape(objective.init, jax.random.key(0))


def random_params(task, spread: float = 0.2) -> dict:
    """Parameters so large that attention, biases and scales all matter; unlike `task.init`, at once."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        return np.float32(rng.normal(path[-1].key == 'scale', spread, leaf.shape))

    return jax.tree_util.tree_map_with_path(draw, initial_shapes(task))


def batches(
    config: ConfigDict, start_step: int = 0, split: str = 'train', rows: tuple[int, int] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """As `input_pipeline.pretraining.batches.batches`: endless in 'train'; a padded pass in 'validation'."""
    vocabulary = Vocabulary(config.model.base_vocab_size, config.model.vocab_size)
    size = config.batch_size
    steps = -(-VALIDATION_EXAMPLES // size) if split == 'validation' else 10**9
    for step in range(start_step, steps):
        numbers = range(step * size, (step + 1) * size)[slice(*(rows or (0, size)))]
        end = VALIDATION_EXAMPLES if split == 'validation' else numbers.stop
        yield stack(example(config, vocabulary, i, split) if i < end else empty(config) for i in numbers)


def stack(examples) -> dict[str, np.ndarray]:
    """Examples into a batch."""
    examples = list(examples)
    return {key: np.stack([row[key] for row in examples]) for key in examples[0]}


def empty(config: ConfigDict) -> dict[str, np.ndarray]:
    """A row of padding."""
    data, out = config.data, {}
    for view in VIEWS:
        length = data[f'{view}_length']
        masked = round(data.mask_rate * length)
        out |= {f'{view}_{name}': np.zeros(length, np.int32) for name in ('ids', 'segments')}
        out[f'{view}_mlm_positions'] = np.zeros(masked, np.int32)
        out[f'{view}_mlm_labels'] = np.full(masked, -100, np.int32)
    for name in ('word_position', 'char_start', 'char_length', 'ids'):
        out[f'anchor_{name}'] = np.zeros(data.max_anchors, np.int32)
    out['sop_labels'] = np.int32(-1)
    return out


def example(config: ConfigDict, vocabulary: Vocabulary, number: int, split: str) -> dict[str, np.ndarray]:
    """Row `number` of the set: [CLS] A [SEP] B [SEP] in both views, masked, with anchors."""
    rng = np.random.default_rng([config.seed, split == 'train', number])
    spelling = [(i,) for i in range(vocabulary.base_size)] + vocabulary.pieces()
    most = rng.integers(config.data.word_length // 2, config.data.word_length - 3, endpoint=True)
    ends = np.where(rng.random(most) < 0.7, len(spelling), vocabulary.base_size)
    draws = rng.integers(5, ends).tolist()
    lengths = np.cumsum([len(spelling[word]) for word in draws])
    words = draws[: np.searchsorted(lengths, config.data.char_length - 3, side='right')]
    middle = len(words) // 2
    # The word view with its special tokens, and where each of its tokens begins in the character view.
    tokens = [CLS, *words[:middle], SEP, *words[middle:], SEP]
    starts = np.cumsum([0] + [len(spelling[token]) for token in tokens])
    ids = {'char': [i for token in tokens for i in spelling[token]], 'word': tokens}
    second = {'char': int(starts[middle + 2]), 'word': middle + 2}

    out = empty(config)
    masked: dict[str, set[int]] = {}
    for view in VIEWS:
        tokens_of_view = np.array(ids[view], np.int32)
        length, budget = len(tokens_of_view), len(out[f'{view}_mlm_positions'])
        out[f'{view}_segments'][second[view] : length] = 1
        candidates = np.flatnonzero(tokens_of_view >= 5)
        positions = np.sort(rng.choice(candidates, min(budget, max(1, length // 6), len(candidates)), False))
        out[f'{view}_mlm_positions'][: len(positions)] = positions
        out[f'{view}_mlm_labels'][: len(positions)] = tokens_of_view[positions]
        tokens_of_view[positions] = MASK
        out[f'{view}_ids'][:length] = tokens_of_view
        masked[view] = set(positions.tolist())
    anchors = [
        i for i, token in enumerate(tokens)
        if token >= vocabulary.base_size and i not in masked['word']
        and not masked['char'].intersection(range(starts[i], starts[i + 1]))
    ]  # fmt: skip
    anchors = np.sort(rng.permutation(anchors)[: config.data.max_anchors]).astype(int)
    out['anchor_word_position'][: len(anchors)] = anchors
    out['anchor_char_start'][: len(anchors)] = starts[anchors]
    out['anchor_char_length'][: len(anchors)] = starts[anchors + 1] - starts[anchors]
    out['anchor_ids'][: len(anchors)] = [tokens[i] for i in anchors]
    out['sop_labels'] = np.int32(rng.integers(2))
    return out
