"""Occurrences of words: where the segmenter cut them, and no more than asked for."""

import numpy as np
import pytest

from input_pipeline.corpus import record_source
from input_pipeline.probing import word_contexts
from input_pipeline.text.vocabulary import Vocabulary


@pytest.fixture(scope='module')
def vocabulary(small_corpus):
    return Vocabulary.load(small_corpus / 'vocab.txt')


def by_loop(corpus, split, words):
    """Every (word, sentence, start) of a split."""
    source = record_source.open_split(corpus, split)
    records = record_source.parse(source.__getitems__(list(range(len(source)))))
    found = []
    for number in range(len(source)):
        record = {key: values[number].numpy().tolist() for key, values in records.items()}
        ids, lengths, words_left = record['char_ids'], record['word_char_len'], record['whole_word_tokens']
        for tokens in record['sentence_words']:
            sentence = []
            starts = []
            while tokens:
                whole = words_left.pop(0)
                size = sum(lengths[:whole])
                starts.append((len(sentence), size))
                sentence += ids[:size]
                ids, lengths, tokens = ids[size:], lengths[whole:], tokens - whole
            for start, size in starts:
                word = words.get(tuple(sentence[start : start + size]))
                if word is not None:
                    found.append((word, tuple(sentence), start))
    return found


def listed(contexts):
    return [
        (word, tuple(contexts.sentences[sentence].tolist()), start)
        for word, sentence, start in zip(contexts.word, contexts.sentence, contexts.start)
    ]


@pytest.mark.slow
def test_occurrences_are_those_of_a_loop(small_corpus, vocabulary, monkeypatch):
    monkeypatch.setattr(word_contexts, 'RECORDS', 7)
    words = {spelled: row for row, spelled in enumerate(vocabulary.pieces())}
    words[vocabulary.spell('不过的了')] = -1  # cut in it, where it occurs at all
    expected = by_loop(small_corpus, 'train', words)
    found = word_contexts.find(small_corpus, 'train', words, most=10**6)
    assert sorted(listed(found)) == sorted(expected) and len(expected) > 500
    spelled = {row: ids for ids, row in words.items()}
    for word, sentence, start, length in zip(found.word, found.sentence, found.start, found.length):
        assert tuple(found.sentences[sentence][start : start + length]) == spelled[word]
    assert len({ids.tobytes() for ids in found.sentences}) == len(found.sentences)


def test_a_sample_is_of_its_size_and_the_same_again(small_corpus, vocabulary):
    words = {spelled: row for row, spelled in enumerate(vocabulary.pieces())}
    every = word_contexts.find(small_corpus, 'train', words, most=10**6)
    some = word_contexts.find(small_corpus, 'train', words, most=3, seed=1)
    assert listed(some) == listed(word_contexts.find(small_corpus, 'train', words, most=3, seed=1))
    assert listed(some) != listed(word_contexts.find(small_corpus, 'train', words, most=3, seed=2))
    numbers, counts = np.unique(every.word, return_counts=True)
    chosen, few = np.unique(some.word, return_counts=True)
    assert numbers.tolist() == chosen.tolist() and few.tolist() == np.minimum(counts, 3).tolist()
    assert set(listed(some)) <= set(listed(every))


def test_longer_sentences_do_not_count(small_corpus, vocabulary):
    words = {spelled: row for row, spelled in enumerate(vocabulary.pieces())}
    every = listed(word_contexts.find(small_corpus, 'train', words, most=10**6))
    short = listed(word_contexts.find(small_corpus, 'train', words, most=10**6, longest=9))
    assert sorted(short) == sorted(one for one in every if len(one[1]) <= 9)
    assert 0 < len(short) < len(every)


def test_words_are_chosen_and_numbered_anew(small_corpus, vocabulary):
    words = {spelled: row for row, spelled in enumerate(vocabulary.pieces())}
    every = word_contexts.find(small_corpus, 'train', words, most=4)
    a, b = np.unique(every.word)[[5, 2]].tolist()
    expected = [({a: 0, b: 1}[word], *rest) for word, *rest in listed(every) if word in (a, b)]
    chosen = every.of([a, b])
    assert sorted(listed(chosen)) == sorted(expected)
    assert sorted(set(chosen.sentence.tolist())) == list(range(len(chosen.sentences)))
    assert not every.of([]).sentences
