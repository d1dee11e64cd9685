"""The distributions of each sampler's draws."""

import numpy as np
import pytest

from quantlab.errors import RequestError
from quantlab.search.mobilenet import MobileNetSpace, Stage
from quantlab.search.nas_bench_201 import NasBench201
from quantlab.search.samplers import FSNAS, SPOS, FairNAS, build_sampler

SPACE = NasBench201()


def test_spos_draws_one_subnet_uniformly():
    rng = np.random.default_rng(0)
    drawn = np.array([SPOS(SPACE).draw(rng, 0, None)[0] for _ in range(5000)])
    for edge in range(6):
        counts = np.bincount(drawn[:, edge], minlength=5)
        assert np.abs(counts - 1000).max() < 4 * (5000 * 0.2 * 0.8) ** 0.5


def test_fairnas_draws_every_operation_of_every_edge_exactly_once_a_step():
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = np.array(FairNAS(SPACE).draw(rng, 0, None))
        assert drawn.shape == (5, 6) and (np.sort(drawn, axis=0) == np.arange(5)[:, None]).all()


def test_with_momentum_separation_fairnas_shares_one_operation_and_is_fair_elsewhere():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        drawn = np.array(FairNAS(SPACE).draw(rng, 0, 2))
        assert len(set(drawn[:, 2])) == 1
        seen.add(drawn[0, 2])
        others = np.delete(drawn, 2, axis=1)
        assert (np.sort(others, axis=0) == np.arange(5)[:, None]).all()
    assert seen == set(range(5))


def test_fairnas_covers_layers_that_offer_fewer_operations():
    space = MobileNetSpace([Stage(8, 2, 2), Stage(8, 2, 1)])
    drawn = np.array(FairNAS(space).draw(np.random.default_rng(0), 0, None))
    for layer in range(len(space.decisions)):
        assert set(drawn[:, layer]) == set(space.choices(layer))
    assert all(space.check(tuple(subnet)) for subnet in drawn.tolist())


def test_fsnas_fixes_one_operation_per_supernet():
    sampler, rng = FSNAS(SPACE, 3), np.random.default_rng(0)
    assert sampler.parts == 5
    for part in range(5):
        drawn = [sampler.draw(rng, part, None)[0] for _ in range(20)]
        assert {subnet[3] for subnet in drawn} == {part} and len({subnet[0] for subnet in drawn}) > 1
        assert all(sampler.part_of(subnet) == part for subnet in drawn)
    assert sampler.within((0, 1, 2, 3, 4, 0), 4) == (0, 1, 2, 4, 4, 0)


@pytest.mark.parametrize("name", ["spos", "fairnas", "fsnas"])
def test_the_generator_alone_decides(name):
    sampler = build_sampler(name, SPACE, 0)
    one, other = (sampler.draw(np.random.default_rng(7), 0, 1) for _ in range(2))
    assert one == other != sampler.draw(np.random.default_rng(8), 0, 1)


MOBILENET = MobileNetSpace(
    [Stage(8, 2, 1), Stage(16, 3, 2)], stem=8, first=8, last=32, stem_stride=1, image_size=8, classes=10
)
LEAST, MOST = MOBILENET.complexity_range("flops")
BINS = [LEAST + (MOST - LEAST) * share for share in (0.2, 0.3, 0.5, 0.55)]


def flops_of(sampler, part=0, draws=600):
    rng = np.random.default_rng(0)
    return np.array([MOBILENET.complexity(sampler.draw(rng, part, None)[0], "flops") for _ in range(draws)])


@pytest.mark.parametrize("name", ["spos", "fsnas"])
def test_bins_of_flops_are_drawn_alike_however_many_subnets_they_hold(name):
    sampler = build_sampler(name, MOBILENET, 0, BINS)
    found = flops_of(sampler, part=2 if name == "fsnas" else 0)
    counts = np.histogram(found, BINS)[0]
    assert counts.sum() == 600 and np.abs(counts - 200).max() < 4 * (600 / 3 * 2 / 3) ** 0.5
    uniform = np.histogram(flops_of(build_sampler(name, MOBILENET, 0)), BINS)[0]
    assert uniform.sum() < 600 and uniform[1] > 2 * uniform[2]


def test_inside_a_bin_every_subnet_is_as_likely():
    rng, sampler = (
        np.random.default_rng(0),
        build_sampler("spos", SPACE, 0, [0, SPACE.complexity((0, 0, 0, 0, 0, 2), "flops")]),
    )
    # cells with at most one 1x1 convolution: 3^6 and 6 * 3^5
    drawn = [sampler.draw(rng, 0, None)[0] for _ in range(600)]
    convolutions = np.array([subnet.count(2) for subnet in drawn])
    assert convolutions.max() == 1 and not any(3 in subnet for subnet in drawn)
    assert abs(convolutions.mean() - 6 / 9) < 4 * (2 / 9 / 600) ** 0.5


def test_a_bin_that_is_never_hit_gives_any_subnet_and_one_outside_the_space_is_refused():
    narrow = build_sampler(
        "spos", SPACE, 0, [SPACE.complexity_range("flops")[1] - 0.5, SPACE.complexity_range("flops")[1]]
    )
    subnet = narrow.draw(np.random.default_rng(0), 0, None)[0]
    assert SPACE.check(subnet) and subnet != (3,) * 6
    with pytest.raises(
        RequestError, match=f"method.flops_bins: got a bin from 3e.08 to 3.1e.08, .* have {LEAST} to {MOST} FLOPs here"
    ):
        build_sampler("spos", MOBILENET, 0, [300e6, 310e6])
