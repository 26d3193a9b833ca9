"""Records drawn at random, their batches, and what is masked in them."""

import numpy as np

from input_pipeline.pretraining import masking
from input_pipeline.text import constants
from input_pipeline.utils.tensorflow import tf

CLS, SEP, MASK = 2, 3, 4
BASE, SIZE = 300, 1000  # ids below BASE are the base block


class FakeVocabulary:
    """Ids as a Vocabulary gives them: specials 0–4, a base block, then words; even ones may anchor."""

    cls, sep, mask = CLS, SEP, MASK

    def anchor_mask(self, longest=4):
        ids = np.arange(SIZE)
        return (ids >= BASE) & (ids % 2 == 0)

    def random_ids(self, base_only):
        return np.arange(5, BASE if base_only else SIZE, dtype=np.int32)


VOCABULARY = FakeVocabulary()


def random_word(rng):
    """The (id, characters) of a segmented word's tokens: several base tokens, or one of the word block."""
    if rng.random() < 0.3:
        return [(int(row), 1) for row in rng.integers(5, BASE, rng.integers(1, 9))]
    length = int(rng.integers(2, 6))
    return [
        (int(rng.integers(BASE // 2, SIZE // 2)) * 2 + (length == 5), length)
    ]  # five characters: no anchor


def random_record(rng, char_length, word_length):
    """A window of 2 to 60 words, as many as fit, in 2 to 6 sentences."""
    words, chars, tokens = [], 0, 0
    for word in (random_word(rng) for _ in range(rng.integers(2, 61))):
        chars += sum(length for _, length in word)
        tokens += len(word)
        if chars > char_length - 3 or tokens > word_length - 3:
            break
        words.append(word)
    ends = rng.choice(np.arange(1, len(words)), min(rng.integers(1, 6), len(words) - 1), replace=False)
    sentences = np.split([len(word) for word in words], np.sort(ends))
    flat = [token for word in words for token in word]
    return {
        'char_ids': rng.integers(5, BASE, sum(length for _, length in flat)).tolist(),
        'word_ids': [row for row, _ in flat],
        'word_char_len': [length for _, length in flat],
        'sentence_words': [int(sentence.sum()) for sentence in sentences],
        'whole_word_tokens': [len(word) for word in words],
    }


def random_records(seed, count, char_length=64, word_length=48):
    rng = np.random.default_rng(seed)
    return [random_record(rng, char_length, word_length) for _ in range(count)]


def ragged(records):
    return {name: tf.ragged.constant([r[name] for r in records], tf.int32) for name in records[0]}


def run(records, examples=None, **kwargs):
    settings_ = dict(vocabulary=VOCABULARY, seed=7, char_length=64, word_length=48) | kwargs
    examples = np.arange(len(records)) if examples is None else examples
    batch = masking.make_batch(ragged(records), tf.constant(examples, tf.int64), **settings_)
    return {name: value.numpy() for name, value in batch.items()}


def lay_out(record, boundary, swapped, vocabulary):
    """The two views without masks, written as the method says it; also each word's span and whole word."""
    starts, whole = [], []
    words_a = sum(record['sentence_words'][:boundary])
    char_start = np.concatenate([[0], np.cumsum(record['word_char_len'])])
    whole_ends = np.cumsum(record['whole_word_tokens'])
    halves = [range(words_a), range(words_a, len(record['word_ids']))]
    char_ids, word_ids, segments_c, segments_w = [vocabulary.cls], [vocabulary.cls], [0], [0]
    for segment, half in enumerate(halves[::-1] if swapped else halves):
        for w in half:
            starts.append((len(word_ids), len(char_ids), record['word_char_len'][w]))
            whole.append(int(np.searchsorted(whole_ends, w, side='right')))
            word_ids.append(record['word_ids'][w])
            char_ids += record['char_ids'][char_start[w] : char_start[w + 1]]
        char_ids.append(vocabulary.sep)
        word_ids.append(vocabulary.sep)
        segments_c += [segment] * (len(char_ids) - len(segments_c))
        segments_w += [segment] * (len(word_ids) - len(segments_w))
    return char_ids, word_ids, segments_c, segments_w, starts, whole


def unmask(batch, view, b):
    ids = batch[f'{view}_ids'][b].copy()
    real = batch[f'{view}_mlm_labels'][b] != constants.IGNORED_LABEL
    ids[batch[f'{view}_mlm_positions'][b][real]] = batch[f'{view}_mlm_labels'][b][real]
    return ids.tolist()


def padded(values, length):
    return list(values) + [0] * (length - len(values))


def chosen_positions(batch, view, b):
    return batch[f'{view}_mlm_positions'][b][batch[f'{view}_mlm_labels'][b] != constants.IGNORED_LABEL]


def boundary_of(record, segments, swapped):
    """The number of sentences in A, told by the length of segment 0, which is [CLS] X [SEP]."""
    words_x = int(segments.argmax()) - 2
    words_a = len(record['word_ids']) - words_x if swapped else words_x
    return np.cumsum(record['sentence_words']).tolist().index(words_a) + 1


def check_batch(
    records, batch, char_length=64, word_length=48, mask_rate=0.15, max_anchors=20, vocabulary=VOCABULARY
):
    """Every promise of `make_batch`, example by example, against the plain layout."""
    may_anchor = vocabulary.anchor_mask()
    for b, record in enumerate(records):
        swapped = bool(batch['sop_labels'][b])
        boundary = boundary_of(record, batch['word_segments'][b], swapped)
        char_ids, word_ids, char_segments, word_segments, starts, whole = lay_out(
            record, boundary, swapped, vocabulary
        )
        assert unmask(batch, 'char', b) == padded(char_ids, char_length)
        assert unmask(batch, 'word', b) == padded(word_ids, word_length)
        assert batch['char_segments'][b].tolist() == padded(char_segments, char_length)
        assert batch['word_segments'][b].tolist() == padded(word_segments, word_length)

        chars, words = set(chosen_positions(batch, 'char', b)), set(chosen_positions(batch, 'word', b))
        for view, chosen in (('char', chars), ('word', words)):
            positions = batch[f'{view}_mlm_positions'][b]
            assert sorted(chosen) == positions[: len(chosen)].tolist()
            assert not positions[len(chosen) :].any()
        assert len(words) == max(1, round(mask_rate * len(starts)))
        assert words <= {w for w, _, _ in starts}
        limit = max(1, round(mask_rate * len(record['char_ids'])))
        assert len(chars) <= limit
        spans = {}
        for (_, start, length), word in zip(starts, whole, strict=True):
            spans.setdefault(word, set()).update(range(start, start + length))
        assert all(
            chars.isdisjoint(span) or chars >= span for span in spans.values()
        )  # all of a word or nothing
        assert chars <= set().union(*spans.values())
        left_out = [len(span) for span in spans.values() if chars.isdisjoint(span)]
        assert all(size > limit - len(chars) for size in left_out)

        allowed = {
            (w, start, length, word_ids[w])
            for w, start, length in starts
            if may_anchor[word_ids[w]] and w not in words and chars.isdisjoint(range(start, start + length))
        }
        names = ('word_position', 'char_start', 'char_length', 'ids')
        anchors = list(zip(*(batch[f'anchor_{name}'][b].tolist() for name in names), strict=True))
        count = min(max_anchors, len(allowed))
        assert len(set(anchors[:count])) == count and set(anchors[:count]) <= allowed
        assert anchors[:count] == sorted(anchors[:count])
        assert anchors[count:] == [(0, 0, 0, 0)] * (max_anchors - count)
