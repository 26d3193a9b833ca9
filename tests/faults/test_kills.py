"""A slice of `make soak`: runs that are killed, or whose power is cut, end as those that never were."""

from collections import Counter

import corpora
import jobs
import kills
import moments
import power
import pytest
import starts

from input_pipeline.corpus import corpus_builder


@pytest.fixture(scope='module')
def materials(tmp_path_factory):
    folder = tmp_path_factory.mktemp('materials') / 'made'
    jobs.make_materials(folder)
    return folder


@pytest.fixture(scope='module')
def pretraining(materials, tmp_path_factory):
    job = jobs.all_jobs(materials)['pretrain']
    return kills.Rounds(starts.server(), job, tmp_path_factory.mktemp('rounds') / 'pretrain')


@pytest.mark.slow
def test_killed_thrice_ends_with_the_same_bits(pretraining):
    """In as many rounds as that takes: a run may come to its end before its moment has come."""
    *_, found = kills.rounds(None, pretraining.kills, pretraining.round, wanted=3)
    assert found['kills'] == 3


@pytest.mark.slow
@pytest.mark.skipif(
    not power.can_be_cut(), reason='a disk whose power can be cut needs root and a loop device'
)
def test_a_power_cut_costs_nothing_but_steps(pretraining):
    pretraining.power_cuts(seed=1, cuts=2)


@pytest.mark.slow
def test_a_build_that_was_killed_is_built_again(materials, tmp_path):
    """Two workers; what comes of it is, byte for byte, what one process makes that nobody kills. Of these
    seeds one kills a worker, the other all processes, at 0.63 of the time that the build after it took."""
    whole = tmp_path / 'whole'
    corpus_builder.build(str(materials / 'text'), materials / 'vocab.txt', whole, **jobs.CORPUS)
    builds = corpora.Builds(materials, tmp_path / 'builds', corpora.contents(whole), seconds=5)
    builds.round(seed=7, kills=1)
    builds.round(seed=1, kills=1)
    assert builds.kills == {'worker': 1, 'all': 1}


def test_figures_add_up_and_seeds_go_on():
    counted, taken = Counter(), []

    def take(seed, most):
        taken.append((seed, most))
        counted['save'] += min(most, 3)  # then it came to its end

    before = {'kills': 6, 'by_phase': {'save': 4, 'step': 2}, 'rounds': 2, 'seconds': 50}
    found = list(kills.rounds(before, counted, take, wanted=7))
    assert taken == [(2, 5), (3, 4), (4, 1)]
    assert [one['kills'] for one in found] == [9, 12, 13] and found[-1]['rounds'] == 5
    assert found[-1]['by_phase'] == {'save': 11, 'step': 2} and found[-1]['seconds'] >= 50
    assert before['kills'] == 6


def test_an_end_state_tells_what_differs():
    with pytest.raises(AssertionError, match='seed 3: differs from an undisturbed run in b, c'):
        jobs.assert_same({'a': '1', 'b': '2'}, {'a': '1', 'b': '3', 'c': '4'}, 'seed 3')


def test_moments_are_drawn_again_from_their_seed():
    import random

    seconds = {'start': 2.0, 'step': 0.5}
    drawn = [moments.draw(random.Random(7), ('start', 'step', 'save'), seconds) for _ in range(2)]
    assert drawn[0] == drawn[1]
    many = [moments.draw(random.Random(seed), ('start', 'step', 'save'), seconds) for seed in range(60)]
    assert {moment.phase for moment in many} == {'start', 'step', 'save'}
    assert all(moment.delay < seconds.get(moment.phase, moments.SAVING) for moment in many)
