"""Searches: they find the best of a known score, score nothing twice, and respect the limit."""

import numpy as np
import pytest

from quantlab.errors import RequestError
from quantlab.search.mobilenet import MobileNetSpace
from quantlab.search.nas_bench_201 import NasBench201
from quantlab.search.strategies import ComplexityLimit, draw_within, evolutionary_search, exhaustive, random_search

SPACE = NasBench201()
BEST = SPACE.decode("3-3-3-1-2-3")


class Recorder:
    """Score: how many decisions agree with BEST. Remembers what it was asked."""

    def __init__(self, target=BEST):
        self.target, self.asked = target, []

    def __call__(self, subnets):
        self.asked += subnets
        return [float(sum(one == other for one, other in zip(subnet, self.target))) for subnet in subnets]


def test_exhaustive_search_sees_every_subnet_once_and_finds_the_best():
    score = Recorder()
    ranked = exhaustive(SPACE, score)
    assert score.asked == [SPACE.subnet(number) for number in range(SPACE.size)]
    assert ranked[0] == (BEST, 6.0) and [one for _, one in ranked] == sorted((one for _, one in ranked), reverse=True)
    assert {subnet for subnet, _ in ranked[1:25]} == set(SPACE.neighbours(BEST))


def test_exhaustive_search_of_an_endless_space_is_refused():
    with pytest.raises(
        RequestError, match="got exhaustive, but mobilenet has .* type method.search.strategy=evolutionary"
    ):
        exhaustive(MobileNetSpace(), Recorder())


def test_random_search_scores_different_subnets_and_follows_its_seed():
    score = Recorder()
    ranked = random_search(SPACE, score, 500, np.random.default_rng(0))
    assert len(set(score.asked)) == len(score.asked) == len(ranked) == 500
    again = random_search(SPACE, Recorder(), 500, np.random.default_rng(0))
    assert ranked == again != random_search(SPACE, Recorder(), 500, np.random.default_rng(1))


def test_evolution_finds_the_best_with_far_fewer_scores_than_chance():
    found = []
    for seed in range(5):
        score = Recorder()
        found.append(evolutionary_search(SPACE, score, np.random.default_rng(seed))[0][0])
        assert len(set(score.asked)) == len(score.asked) == 1_000  # 20 generations of 50
    assert found == [BEST] * 5


def test_evolution_without_crossover_or_mutation_is_random_search():
    alone = evolutionary_search(SPACE, Recorder(), np.random.default_rng(0), crossover=0, mutation=0, generations=4)
    assert sorted(alone) == sorted(random_search(SPACE, Recorder(), 200, np.random.default_rng(0)))


@pytest.mark.parametrize(
    "search",
    [
        lambda score, limit: exhaustive(SPACE, score, limit),
        lambda score, limit: random_search(SPACE, score, 300, np.random.default_rng(0), limit),
        lambda score, limit: evolutionary_search(SPACE, score, np.random.default_rng(0), limit),
    ],
    ids=["exhaustive", "random", "evolutionary"],
)
@pytest.mark.parametrize("measure", ["parameters", "flops"])
def test_no_search_asks_for_what_exceeds_the_limit(search, measure):
    largest = np.mean(SPACE.complexity_range(measure)) / 2
    score = Recorder()
    ranked = search(score, ComplexityLimit(SPACE, measure, largest))
    assert ranked and max(SPACE.complexity(subnet, measure) for subnet in score.asked) <= largest


def test_a_limit_that_excludes_every_subnet_is_refused_with_the_smallest():
    for search in (
        lambda limit: exhaustive(SPACE, Recorder(), limit),
        lambda limit: random_search(SPACE, Recorder(), 5, np.random.default_rng(0), limit),
        lambda limit: evolutionary_search(SPACE, Recorder(), np.random.default_rng(0), limit),
    ):
        said = "got 72751 parameters, which excludes every subnet of nas_bench_201, allowed: from 72752 .*=72752"
        with pytest.raises(RequestError, match=said):
            search(ComplexityLimit(SPACE, "parameters", 72_751))


def test_the_tightest_limit_still_gives_subnets_and_ends_when_they_are_used_up():
    # The 3^6 cells without any convolution
    ranked = random_search(
        SPACE, Recorder(), 10_000, np.random.default_rng(0), ComplexityLimit(SPACE, "parameters", 72_752)
    )
    assert 650 < len(ranked) <= 729
    space = MobileNetSpace()
    least, _ = space.complexity_range("flops")
    rng = np.random.default_rng(0)
    tightest = draw_within(space, rng, ComplexityLimit(space, "flops", least))
    assert space.complexity(tightest, "flops") == least
    drawn = {draw_within(space, rng, ComplexityLimit(space, "flops", 1.05 * least)) for _ in range(20)}
    assert len(drawn) > 10 and all(space.complexity(subnet, "flops") <= 1.05 * least for subnet in drawn)
