"""CaLR: the released code's exponents on the benchmark's 15,625 cells, and rates worked out by hand."""

import math

import numpy as np
import pytest
import torch

from quantlab.optim import CaLR
from quantlab.optim.calr import decay_exponent, decay_factor
from quantlab.search.nas_bench_201 import NasBench201

LEAST, LARGEST = 72_752, 1_524_272
ALL_3X3, EMPTY = (3,) * 6, (0,) * 6
# gamma of complexities of NAS-Bench-201's cells, gamma_max 4, as published code gives them
GAMMA = {
    72752: 4.0,
    99632: 3.612,
    126512: 3.318,
    314672: 2.195,
    341552: 2.094,
    368432: 2.0,
    556592: 1.492,
    583472: 1.434,
    798512: 1.047,
    825392: 1.006,
    852272: 0.967,
    1040432: 0.721,
    1282352: 0.463,
    1524272: 0.25,
}


def optimizer_of(*rates):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates], lr=1.0)


def rates_of(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def test_exponents_of_the_benchmarks_cells():
    space = NasBench201()
    complexities = np.array([space.complexity(space.subnet(index)) for index in range(space.size)])
    assert (complexities.min(), complexities.max()) == space.complexity_range() == (LEAST, LARGEST)
    exponents = {
        int(complexity): decay_exponent(int(complexity), LEAST, LARGEST, 4.0) for complexity in np.unique(complexities)
    }
    assert len(exponents) == 28
    assert {complexity: round(exponents[complexity], 3) for complexity in GAMMA} == GAMMA
    gammas = np.array([exponents[int(complexity)] for complexity in complexities])
    assert gammas.mean() == pytest.approx(2.18, abs=0.005) and np.median(gammas) == pytest.approx(2.09, abs=0.005)
    assert (gammas < 1).mean() == pytest.approx(0.0298, abs=5e-5)


def test_the_exponent_is_affine_in_the_logarithm():
    complexities = np.geomspace(LEAST, LARGEST, 7)
    complexities[[0, -1]] = LEAST, LARGEST
    gammas = [decay_exponent(complexity, LEAST, LARGEST, 4.0) for complexity in complexities]
    omega, tau = np.polyfit(np.log(complexities), gammas, 1)
    assert omega == pytest.approx(-1.2326542, abs=1e-7) and tau == pytest.approx(17.7993310, abs=1e-6)
    assert np.allclose(gammas, omega * np.log(complexities) + tau, atol=1e-9)
    assert decay_exponent(829_505, LEAST, LARGEST, 4.0) == pytest.approx(1, abs=1e-5)


def test_the_measure_has_no_unit_and_one_complexity_decays_linearly():
    assert decay_exponent(0.3, 0.1, 1.7, 3.0) == pytest.approx(decay_exponent(300_000, 100_000, 1_700_000, 3.0))
    assert decay_exponent(500, 500, 500, 4.0) == 1
    assert decay_exponent(LEAST, LEAST, LARGEST, 1.0) == decay_exponent(LARGEST, LEAST, LARGEST, 1.0) == 1


@pytest.mark.parametrize("subnet, gamma", [(ALL_3X3, 0.25), (EMPTY, 4.0)])
def test_rates_of_the_largest_and_the_empty_cell(subnet, gamma):
    space, total, lr0 = NasBench201(), 1000, 0.025
    optimizer = optimizer_of(lr0)
    calr = CaLR(optimizer, total, *space.complexity_range())
    complexity = space.complexity(subnet)
    calr.set(0, complexity)
    assert rates_of(optimizer) == [lr0]
    calr.set(total // 2, complexity)
    assert rates_of(optimizer) == [pytest.approx(lr0 * 0.5**gamma, rel=1e-12)]
    calr.set(total - 1, complexity)
    assert rates_of(optimizer) == [pytest.approx(lr0 * (1 / total) ** gamma, rel=1e-12)]


def test_the_rate_is_set_for_the_step_that_follows():
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    calr = CaLR(optimizer, 4, least=1, largest=16, gamma_max=2.0)  # gamma: 2 at 1, 1.25 at 4, 0.5 at 16
    moved = []
    for t, complexity in enumerate([1, 16, 4, 1]):
        weight.grad, before = torch.ones(()), weight.item()
        calr.set(t, complexity)
        optimizer.step()
        moved.append(before - weight.item())
    assert moved == pytest.approx([1, 0.75**0.5, 0.5**1.25, 0.25**2])


def test_every_group_keeps_its_proportion():
    optimizer = optimizer_of(0.1, 0.4)
    calr = CaLR(optimizer, 10, 1, 100)
    assert calr.set(5, 100) == calr.factor(5, 100) == pytest.approx(0.5**0.25)
    assert rates_of(optimizer) == pytest.approx([0.1 * 0.5**0.25, 0.4 * 0.5**0.25])


def test_a_group_that_is_added_later_starts_from_the_rate_it_came_with():
    optimizer = optimizer_of(0.1)
    calr = CaLR(optimizer, 10, 1, 100)
    calr.set(3, 1)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.4})
    for t in (5, 6):
        calr.set(t, 100)
    assert rates_of(optimizer) == pytest.approx([0.1 * 0.4**0.25, 0.4 * 0.4**0.25])


def test_a_resumed_schedule_continues_from_the_first_rate():
    optimizer = optimizer_of(0.1)
    calr = CaLR(optimizer, 10, 1, 100, gamma_max=3.0)
    calr.set(7, 1)
    state, memory = calr.state_dict(), optimizer.state_dict()
    assert state == {"total": 10, "least": 1, "largest": 100, "gamma_max": 3.0}
    for is_made_before_loading in (True, False):
        other = optimizer_of(0.1)
        if is_made_before_loading:
            resumed = CaLR(other, 5, 1, 2)
        other.load_state_dict(memory)
        if not is_made_before_loading:
            resumed = CaLR(other, 5, 1, 2)
        resumed.load_state_dict(state)
        resumed.set(8, 10)
        calr.set(8, 10)
        assert rates_of(other) == rates_of(optimizer)


def test_the_factor_never_rises_and_smaller_subnets_are_below_larger_ones():
    gammas = [decay_exponent(complexity, 1, 100, 4.0) for complexity in (1, 5, 40, 100)]
    factors = np.array([[decay_factor(t, 50, gamma) for t in range(50)] for gamma in gammas])
    assert (np.diff(factors, axis=1) < 0).all() and (np.diff(factors[:, 1:], axis=0) > 0).all() and (factors > 0).all()
    assert decay_factor(50, 50, math.pi) == 0


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: decay_exponent(5, 10, 20, 4.0), "complexity: got 5, allowed: 10 to 20"),
        (lambda: decay_exponent(21, 10, 20, 4.0), "complexity: got 21"),
        (lambda: decay_exponent(0, 0, 20, 4.0), "least complexity: got 0"),
        (lambda: decay_exponent(10, 10, 20, 0.0), "gamma_max: got 0.0"),
        (lambda: decay_factor(11, 10, 1.0), "t: got 11 of 10"),
        (lambda: decay_factor(-1, 10, 1.0), "t: got -1 of 10"),
        (lambda: CaLR(optimizer_of(0.1), 0, 1, 2), "of 0 iterations"),
        (lambda: CaLR(optimizer_of(0.1), 10, 1, 2, gamma_max=-4), "gamma_max: got -4"),
    ],
)
def test_invalid_arguments_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
