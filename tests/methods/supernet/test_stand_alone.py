"""Which subnets are trained alone if no benchmark has their accuracy."""

import numpy as np

from quantlab.methods.supernet.stand_alone import different_subnets
from quantlab.search.mobilenet import MobileNetSpace, Stage
from quantlab.search.nas_bench_201 import NasBench201


def test_subnets_to_train_compute_different_things_and_are_the_generators():
    space = NasBench201()
    chosen = different_subnets(space, 300, np.random.default_rng(0))
    assert len(chosen) == 300 and chosen == sorted(chosen)
    assert len({space.canonical(space.subnet(index)) for index in chosen}) == 300
    assert (
        chosen
        == different_subnets(space, 300, np.random.default_rng(0))
        != different_subnets(space, 300, np.random.default_rng(1))
    )


def test_a_space_with_too_few_subnets_gives_all_of_them():
    space = MobileNetSpace([Stage(8, 1, 2)])
    assert different_subnets(space, 100, np.random.default_rng(0)) == list(range(space.size))
