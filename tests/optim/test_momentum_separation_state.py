"""Momentum separation saved, copied, and loaded from a plain optimizer."""

import copy
import pickle

import pytest
import torch
from separated_walks import assert_equal, draws, every_optimizer, parameters, walk

from quantlab.optim import CaLR, MomentumSeparation
from quantlab.run.state import load_state, save_state


@every_optimizer
@pytest.mark.parametrize("inactive", ["frozen", "decayed"])
def test_a_resumed_run_continues_bit_for_bit(make, inactive, tmp_path):
    whole = parameters()
    walk(whole, MomentumSeparation(make(whole), 3, inactive), range(20))
    for stop in (1, 9):  # after one step two clusters have no memory
        weights = parameters()
        optimizer = MomentumSeparation(make(weights), 3, inactive)
        walk(weights, optimizer, range(stop))
        save_state(tmp_path / "state", optimizer.state_dict())
        resumed = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
        other = MomentumSeparation(make(resumed), 3, inactive)
        other.load_state_dict(load_state(tmp_path / "state")[0])
        assert other.cluster == optimizer.cluster
        walk(resumed, other, range(stop, 20))
        assert_equal(resumed, whole)


def test_groups_and_rates_are_of_all_clusters_before_and_after_loading():
    weights = parameters()
    optimizer = MomentumSeparation(
        torch.optim.SGD([{"params": weights[:2]}, {"params": weights[2:], "lr": 0.5}], lr=0.1), 2
    )
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    calr = CaLR(optimizer, 10, 1, 100)
    calr.set(5, 100)
    before = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.select(1)
    optimizer.step()
    for weight, start, rate in zip(weights, before, (0.1, 0.1, 0.5)):
        torch.testing.assert_close(weight.detach(), start - rate * 0.5**0.25)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda pair: pickle.loads(pickle.dumps(pair))}


@every_optimizer
@pytest.mark.parametrize("copied_by", COPIES.values(), ids=COPIES)
def test_a_copy_walks_as_the_original_does(make, copied_by):
    weights = parameters()
    optimizer = MomentumSeparation(make(weights), 3, "decayed")
    torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)  # puts a `step` of its own on the original
    walk(weights, optimizer, range(9))
    copied_weights, copied = copied_by((weights, optimizer))
    walk(weights, optimizer, range(9, 20))
    walk(copied_weights, copied, range(9, 20))
    assert_equal(copied_weights, weights)
    assert copied.optimizer.state is copied.state is copied.states[copied.cluster]


@every_optimizer
@pytest.mark.parametrize("inactive", ["frozen", "decayed"])
def test_the_state_of_a_plain_optimizer_is_the_first_clusters(make, inactive):
    begun, weights = parameters(), parameters()
    plain = make(begun)
    for weight, gradient in zip(begun, draws(0)[1]):
        weight.grad = gradient
    plain.step()
    plain.zero_grad()
    for weight, other in zip(weights, begun):
        weight.data.copy_(other)
    loaded = MomentumSeparation(make(weights), 3, inactive)
    loaded.select(2)
    loaded.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert loaded.cluster == 0
    wrapped = MomentumSeparation(plain, 3, inactive)
    wrapped.touched = set(plain.state)  # constructing cannot know it
    walk(begun, wrapped, range(1, 12))
    walk(weights, loaded, range(1, 12))
    assert_equal(weights, begun)
