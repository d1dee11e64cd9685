"""Momentum separation: torch's optimizers as the case of one cluster, the released code's five optimizers as the
case of five.
"""

import copy
import pickle

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from quantlab.optim import SGDT, CaLR, MomentumSeparation
from quantlab.run.state import load_state, save_state

OPTIMIZERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.02),
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.01, weight_decay=0.02),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.02),
    "sgdt": lambda weights: SGDT([{"params": weights, "discretize": [torch.round] * 3, "lr": 0.02}], weight_decay=0.02),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (4,), (2, 2))]


def draws(step, clusters=3):
    """(cluster, gradients) of a step: of three parameters one or two have none, as operations outside the subnet."""
    rng = np.random.default_rng((7, step))
    gradients = [
        torch.from_numpy(rng.standard_normal(p.shape)).float() if rng.random() < 0.6 else None for p in parameters()
    ]
    return int(rng.integers(clusters)), gradients


def walk(weights, optimizer, steps, clusters=3):
    for step in steps:
        cluster, gradients = draws(step, clusters)
        for weight, gradient in zip(weights, gradients):
            weight.grad = gradient
        optimizer.select(cluster)
        optimizer.step()
        optimizer.zero_grad()


def assert_equal(weights, others):
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


def scalar(value=1.0):
    return torch.nn.Parameter(torch.tensor(value))


@every_optimizer
def test_one_cluster_is_the_plain_optimizer_bit_for_bit(make):
    ours, torchs = parameters(), parameters()
    separated, plain = MomentumSeparation(make(ours), 1), make(torchs)
    for step in range(20):
        for weights, optimizer in ((ours, separated), (torchs, plain)):
            for weight, gradient in zip(weights, draws(step)[1]):
                weight.grad = gradient
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + step)
            optimizer.step()
            optimizer.zero_grad()
    assert_equal(ours, torchs)


@every_optimizer
@pytest.mark.parametrize("inactive", ["frozen", "decayed"])
def test_clusters_are_as_many_optimizers_over_the_same_weights(make, inactive):
    """What the released code is: one optimizer per cluster. `zero_grad` of torch 1.8, for which it was written,
    wrote zeros.
    """
    ours, theirs = parameters(), parameters()
    walk(ours, MomentumSeparation(make(ours), 3, inactive), range(30))
    optimizers = [make(theirs) for _ in range(3)]
    for step in range(30):
        cluster, gradients = draws(step)
        optimizers[cluster].zero_grad(set_to_none=inactive == "frozen")
        for weight, gradient in zip(theirs, gradients):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
        optimizers[cluster].step()
        if inactive == "frozen":
            optimizers[cluster].zero_grad()
    assert_equal(ours, theirs)


def test_separate_momentum_and_shared_weights_worked_out_by_hand():
    weight = scalar(1.0)
    optimizer = MomentumSeparation(torch.optim.SGD([weight], lr=0.1, momentum=0.5), 2)
    walked = []
    for cluster, gradient in ((0, 1.0), (1, 4.0), (0, 1.0), (1, 0.0)):
        optimizer.select(cluster)
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        walked.append(
            [weight.item()]
            + [None if mu is None else mu.item() for mu in map(optimizer.momentum, [weight] * 2, range(2))]
        )
    # the second cluster has no memory before its first step
    assert walked[0] == [pytest.approx(0.9), 1.0, None]
    assert walked[1] == [pytest.approx(0.5), 1.0, 4.0]  # mu_0 waits
    # mu_0 = 0.5 * 1 + 1: nothing of the 4 that came between
    assert walked[2] == [pytest.approx(0.35), 1.5, 4.0]
    assert walked[3] == [pytest.approx(0.15), 1.5, 2.0]
    assert optimizer.momentum(weight) is optimizer.momentum(weight, 1)  # the selected one


def test_momentum_of_adam_is_its_first_moment():
    weight = scalar()
    optimizer = MomentumSeparation(torch.optim.Adam([weight], betas=(0.75, 0.9)), 2)
    optimizer.select(1)
    weight.grad = torch.tensor(2.0)
    optimizer.step()
    assert optimizer.momentum(weight, 0) is None and optimizer.momentum(weight) == 0.5


@pytest.mark.parametrize("inactive, then", [("frozen", 0.89), ("decayed", 0.7821)])
def test_a_parameter_without_gradient_worked_out_by_hand(inactive, then):
    # Active in the first step only: d = 1 + 0.1 * 1, w = 1 - 0.1 * 1.1. With a zero gradient: d = 0.9 * 1.1 + 0.1 *
    # 0.89 = 1.079.
    weight, never, other = scalar(), scalar(), scalar()
    optimizer = MomentumSeparation(
        torch.optim.SGD([weight, never, other], lr=0.1, momentum=0.9, weight_decay=0.1), 1, inactive
    )
    weight.grad = torch.tensor(1.0)
    optimizer.step()
    optimizer.zero_grad()
    assert weight.item() == pytest.approx(0.89)
    other.grad = torch.tensor(1.0)
    optimizer.step()
    assert weight.item() == pytest.approx(then)
    assert never.item() == 1 and other.item() == pytest.approx(0.89)  # what never had a gradient stays where it is


@pytest.mark.parametrize("inactive, then", [("frozen", 0.89), ("decayed", 0.8811)])
def test_another_cluster_decays_a_weight_but_has_no_momentum_for_it(inactive, then):
    weight, other = scalar(), scalar()
    optimizer = MomentumSeparation(
        torch.optim.SGD([weight, other], lr=0.1, momentum=0.9, weight_decay=0.1), 2, inactive
    )
    weight.grad = torch.tensor(1.0)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.select(1)
    other.grad = torch.tensor(1.0)
    optimizer.step()
    assert weight.item() == pytest.approx(then)  # 0.89 - 0.1 * 0.1 * 0.89


@every_optimizer
@pytest.mark.parametrize("inactive", ["frozen", "decayed"])
def test_a_resumed_run_walks_on_bit_for_bit(make, inactive, tmp_path):
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


def test_memory_is_exactly_one_set_of_buffers_per_cluster():
    weights, clusters = parameters(), 4
    optimizer = MomentumSeparation(OPTIMIZERS["sgd"](weights), clusters)
    for cluster in (*range(clusters), *range(clusters)):
        optimizer.select(cluster)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    buffers = [tensor for state in optimizer.states for memory in state.values() for tensor in memory.values()]
    assert sum(buffer.numel() for buffer in buffers) == clusters * sum(weight.numel() for weight in weights)
    places = {buffer.data_ptr() for buffer in buffers}
    assert len(places) == clusters * len(weights)
    for cluster in range(clusters):
        optimizer.select(cluster)
        assert {optimizer.momentum(weight).data_ptr() for weight in weights} < places  # selecting copies nothing
    optimizer.select(1)
    assert len(optimizer.state_dict()["states"]) == clusters
    assert optimizer.optimizer.state is optimizer.state is optimizer.states[1]  # saving selects nothing


@pytest.mark.parametrize("inactive, buffers", [("frozen", 4), ("decayed", 6)])
def test_frozen_an_operation_of_one_cluster_has_one_buffer(inactive, buffers):
    shared, operations = scalar(), [scalar(), scalar()]
    optimizer = MomentumSeparation(torch.optim.SGD([shared, *operations], lr=0.1, momentum=0.9), 2, inactive)
    for cluster in (0, 1, 0):
        optimizer.select(cluster)
        (shared * operations[cluster]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (
        sum(optimizer.momentum(weight, cluster) is not None for weight in (shared, *operations) for cluster in range(2))
        == buffers
    )


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


def test_an_optimizer_that_calls_its_closure_several_times():
    ours, torchs = scalar(3.0), scalar(3.0)
    separated, plain = MomentumSeparation(torch.optim.LBFGS([ours]), 2), torch.optim.LBFGS([torchs])
    for weight, optimizer in ((ours, separated), (torchs, plain)):

        def closure():
            optimizer.zero_grad()
            loss = (weight - 1) ** 4
            loss.backward()
            return loss

        optimizer.step(closure)
    assert torch.equal(ours, torchs) and ours.item() != 3


def test_hooks_of_both_run_once():
    weight, calls = scalar(), []
    plain = torch.optim.SGD([weight])
    optimizer = MomentumSeparation(plain, 2)
    plain.register_step_pre_hook(lambda *_: calls.append("inner"))
    optimizer.register_step_pre_hook(lambda *_: calls.append("outer"))
    weight.grad = torch.tensor(1.0)
    optimizer.step()
    assert calls == ["outer", "inner"]


def test_a_closure_is_called_once_and_its_gradients_are_used():
    weight, inactive = scalar(), scalar()
    optimizer = MomentumSeparation(torch.optim.SGD([weight, inactive], lr=0.1, weight_decay=0.1), 2, "decayed")
    inactive.grad = torch.tensor(0.0)
    optimizer.step()
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = 3 * weight
        loss.backward()
        calls.append(loss)
        return loss

    assert optimizer.step(closure) == 3 and len(calls) == 1
    assert weight.item() == pytest.approx(1 - 0.1 * 3.1) and inactive.item() == pytest.approx(0.99 * 0.99)


@every_optimizer
def test_prepared_by_accelerate_it_is_the_same(make):
    plain, prepared_weights = parameters(), parameters()
    walk(plain, MomentumSeparation(make(plain), 3, "decayed"), range(20))
    prepared = Accelerator(cpu=True).prepare(MomentumSeparation(make(prepared_weights), 3, "decayed"))
    assert isinstance(prepared.optimizer, MomentumSeparation)
    calr = CaLR(prepared, 10, 1, 2)
    for step in range(20):
        cluster, gradients = draws(step)
        for weight, gradient in zip(prepared_weights, gradients):
            weight.grad = gradient
        prepared.optimizer.select(cluster)
        calr.set(0, 1)
        prepared.step()
        prepared.zero_grad(set_to_none=True)
        if step == 9:
            prepared.load_state_dict(copy.deepcopy(prepared.state_dict()))
    assert_equal(prepared_weights, plain)
    assert prepared.param_groups is prepared.optimizer.optimizer.param_groups
    assert prepared.state is prepared.optimizer.states[prepared.optimizer.cluster]


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda optimizer: MomentumSeparation(optimizer, 0), "clusters: got 0, allowed: 1 or more"),
        (
            lambda optimizer: MomentumSeparation(optimizer, 2, "thawed"),
            "inactive_parameters: got 'thawed', allowed: frozen, decayed",
        ),
        (
            lambda optimizer: MomentumSeparation(torch.optim.Adagrad(parameters()), 2),
            "optimizer: got Adagrad, which makes its memory before",
        ),
        (lambda optimizer: MomentumSeparation(optimizer, 2).select(2), "cluster: got 2, allowed: 0 to 1"),
        (lambda optimizer: MomentumSeparation(optimizer, 2).select(-1), "cluster: got -1"),
        (lambda optimizer: MomentumSeparation(optimizer, 2).momentum(scalar(), 2), "cluster: got 2"),
        (
            lambda optimizer: MomentumSeparation(optimizer, 2).load_state_dict(
                MomentumSeparation(optimizer, 3).state_dict()
            ),
            "clusters=3",
        ),
        (
            lambda optimizer: MomentumSeparation(optimizer, 2).load_state_dict({"model": {}}),
            "got no param_groups and no state, allowed: what state_dict",
        ),
    ],
)
def test_what_is_not_allowed_is_said(call, says):
    with pytest.raises(ValueError, match=says):
        call(OPTIMIZERS["sgd"](parameters()))
