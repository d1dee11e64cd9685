"""SGDT, AdamT, ...: the paper's update worked out by hand, plain optimizers as a special case, and general laws."""

import math

import pytest
import torch
from scheduled_walks import OPTIMIZERS, PAIRS, parameters, rounded, scheduled, sign, walked

from quantlab.optim import SGDT
from quantlab.optim.transition_rate import RULES, updated_talr


@pytest.mark.parametrize("is_scheduled", [False, True])
@pytest.mark.parametrize("ours, torchs", PAIRS)
def test_unscheduled_groups_and_a_rate_that_stays_are_torchs_optimizer_bit_for_bit(ours, torchs, is_scheduled):
    """eta so small that U stays U^0: every layer then moves as under that learning rate, and decays as under it."""
    options = {"lr": 0.0625, "weight_decay": 0.02} | (
        {"momentum": 0.9, "nesterov": is_scheduled} if ours is SGDT else {}
    )
    plain, weights = parameters(), parameters()
    walked(plain, torchs(plain, **options))
    if is_scheduled:
        optimizer = ours([{"params": weights, "discretize": [sign, sign], "lr": 0.5}], eta=1e-30, **options)
    else:
        optimizer = ours(weights, **options)
    walked(weights, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(weights, plain))
    assert len(optimizer.param_groups) == 1 and optimizer.param_groups[0]["lr"] == (0.5 if is_scheduled else 0.0625)


def test_three_updates_worked_out_by_hand():
    # Four weights, sign quantized; constant gradient 1, no momentum: w falls by U every update.
    weight = torch.nn.Parameter(torch.tensor([0.05, 0.15, 0.25, 0.95]))
    optimizer = scheduled(SGDT, weight, lr=0.1, momentum=0.0, target=0.5, m=0.5)
    weight.grad = torch.ones(4)
    optimizer.step()  # U = 0.1, as there is nothing to compare with: w0 crosses zero
    torch.testing.assert_close(weight.data, torch.tensor([-0.05, 0.05, 0.15, 0.85]))
    optimizer.step()  # k = 1/4, K = 0.5 * 0.5 + 0.5 * 0.25 = 0.375, U = 0.1 + 0.1 * 0.125 = 0.1125
    assert optimizer.state[weight]["running_transition_rate"] == pytest.approx(0.375)
    torch.testing.assert_close(weight.data, torch.tensor([-0.1625, -0.0625, 0.0375, 0.7375]))
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()  # k = 1/4, K = 0.3125, U = 0.1125 - 0.1 * 0.3125 = 0.08125
    assert optimizer.state[weight]["talr"] == pytest.approx(0.08125)


@pytest.mark.parametrize(
    "rule, wanted",
    [
        ("additive", 0.2 + 0.1 * (0.3 - 0.6)),
        ("multiplicative", 0.1),
        ("momentum_multiplicative", 0.9 * 0.2 + 0.1 * 0.1),
    ],
)
def test_the_three_rules(rule, wanted):
    got = updated_talr(rule, torch.tensor(0.2), 0.3, torch.tensor(0.6), eta=0.1, m=0.9)
    assert float(got) == pytest.approx(wanted)
    unchanged = updated_talr(rule, torch.tensor(0.2), 0.6, torch.tensor(0.6), eta=0.1, m=0.9)
    assert float(unchanged) == pytest.approx(0.2)


@pytest.mark.parametrize("rule", RULES)
def test_talr_is_never_negative(rule):
    assert updated_talr(rule, torch.tensor(0.01), 0.0, torch.tensor(0.9), eta=10.0, m=0.99) >= 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_transition_without_talr(optimizer):
    weight = torch.nn.Parameter(torch.randn(1000))
    one = scheduled(optimizer, weight, target=1e-6, weight_decay=0.5)
    weight.grad = torch.randn(1000)
    one.step()
    one.state[weight]["talr"].zero_()
    one.state[weight]["running_transition_rate"].fill_(1.0)  # far above the target: U stays at zero
    before = weight.data.clone()
    one.step()
    assert torch.equal(weight.data, before) and one.state[weight]["talr"] == 0


# Standard deviation of the gradient, so that every bit-width needs about the same U: a coarser grid has fewer
# transition points.
NOISE = {1: 0.16, 2: 0.07, 3: 0.034, 4: 0.018}


@pytest.mark.parametrize("bits", NOISE)
@pytest.mark.parametrize("rule", RULES)
def test_running_rate_follows_a_cosine_target(rule, bits):
    """Within 10 % (means over 400 updates) from a fifth of the walk until the target is a tenth of what it was.

    The gradient is stationary: independent noise, the weights kept in their range. The speed of the additive rule is
    its gain eta times what a unit of U moves (at U^0 = eta = 0.1 it needs gradients for which U is well below U^0);
    that of the others does not depend on it. Eq. (S2) closes a gap slowest, and walks twice as long.
    """
    generator, target, total = (
        torch.Generator().manual_seed(0),
        5e-3 * bits**0.5,
        16_000 if rule == "momentum_multiplicative" else 8000,
    )
    weight = torch.nn.Parameter(torch.rand(4000, generator=generator) * 2 - 1)
    optimizer = scheduled(SGDT, weight, rounded(bits), target, lr=0.1, rule=rule)
    errors = []
    for step in range(int(0.8 * total)):
        optimizer.param_groups[0]["lr"] = R = target * 0.5 * (1 + math.cos(math.pi * step / total))
        weight.grad = torch.randn(4000, generator=generator) * NOISE[bits]
        optimizer.step()
        weight.data.clamp_(-1, 1)
        errors.append((optimizer.state[weight]["running_transition_rate"] - R) / R)
    errors = torch.stack(errors[int(0.2 * total) :])
    assert errors.unfold(0, 400, 400).mean(1).abs().max() < 0.1


def test_transitions_are_counted_once_per_update_whatever_happens_between():
    weight = torch.nn.Parameter(torch.tensor([0.05, 1.0]))
    optimizer = scheduled(SGDT, weight, lr=0.1, momentum=0.0, m=0.0)
    for _ in range(3):  # three forward passes, one update
        (weight.sum() / 3).backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()  # no gradient: no update, nothing counted
    weight.grad = torch.zeros(2)
    optimizer.step()
    assert optimizer.state[weight]["running_transition_rate"] == 0.5
    optimizer.step()
    assert optimizer.state[weight]["running_transition_rate"] == 0


def test_hooks_run_once_whether_or_not_torchs_own_optimizer_was_made():
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    weight, calls = torch.nn.Parameter(torch.ones(3)), []
    optimizer = scheduled(SGDT, weight)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    walked([weight], optimizer, 2)
    assert calls == ["before", "after"] * 2


def test_a_closure_is_called_once_before_the_update():
    weight, calls = torch.nn.Parameter(torch.ones(3)), []

    def closure():
        optimizer.zero_grad()
        loss = (3 * weight).sum()
        loss.backward()
        calls.append(loss)
        return loss

    optimizer = scheduled(SGDT, weight, momentum=0.0)
    assert optimizer.step(closure) == 9 and len(calls) == 1  # w = 1 - 0.1 * 3
    torch.testing.assert_close(weight.data, torch.full((3,), 0.7))


def test_a_step_that_fails_leaves_the_groups_as_they_were():
    weights = parameters()
    optimizer = SGDT([{"params": weights, "discretize": [sign, sign], "lr": 0.1}])
    walked(weights, optimizer, 2)
    groups, levels = optimizer.param_groups, optimizer.state[weights[0]]["discrete"]
    optimizer.state[weights[1]]["momentum_buffer"] = torch.ones(9)
    with pytest.raises(RuntimeError):
        walked(weights, optimizer, 1)
    assert optimizer.param_groups is groups and optimizer.state[weights[0]]["discrete"] is levels


def test_a_scheduler_of_torch_moves_targets_and_rates_alike():
    weight, other = torch.nn.Parameter(torch.randn(8)), torch.nn.Parameter(torch.randn(8))
    optimizer = SGDT([{"params": [weight], "discretize": [sign], "lr": 0.02}, {"params": [other]}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for _ in range(5):
        weight.grad, other.grad = torch.randn(8), torch.randn(8)
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.05])


@pytest.mark.parametrize(
    "group, says",
    [
        ({"lr": 0.0}, "target"),
        ({"lr": 1.5}, "target"),
        ({"rule": "sideways"}, "additive"),
        ({"m": 1.0}, "m: got"),
        ({"eta": -1.0}, "eta"),
        ({"discretize": [sign, sign]}, "one each"),
    ],
)
def test_invalid_arguments_are_refused(group, says):
    group = {"params": [torch.nn.Parameter(torch.ones(2))], "discretize": [sign], "lr": 0.01} | group
    with pytest.raises(ValueError, match=says):
        SGDT([group])
