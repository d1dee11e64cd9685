"""SGDT, AdamT, AdamWT: the paper's update worked out by hand, the ordinary optimizers as a special case, and the laws."""

import copy
import math

import pytest
import torch

from quantlab.optim import SGDT, AdamT, AdamWT
from quantlab.optim.transition_rate import RULES, updated_talr

PAIRS = [(SGDT, torch.optim.SGD), (AdamT, torch.optim.Adam), (AdamWT, torch.optim.AdamW)]


def sign(w):
    return torch.where(w >= 0, 1, -1)


def rounded(bits):
    """Discrete weights of `bits` bits, the scale being 1."""
    levels = 2 ** (bits - 1)
    return sign if bits == 1 else lambda w: (w * levels).clamp(-levels, levels - 1).round()


def scheduled(optimizer, weight, function=sign, target=0.5, **options):
    return optimizer([{"params": [weight], "discretize": [function], "lr": target}], **options)


@pytest.mark.parametrize("ours, torchs", PAIRS)
def test_groups_without_discretize_are_the_ordinary_optimizer(ours, torchs):
    torch.manual_seed(0)
    start = [torch.randn(5, 3), torch.randn(4)]
    options = {"lr": 0.05, "weight_decay": 0.02} | ({"momentum": 0.9} if ours is SGDT else {})
    walked = []
    for kind in (ours, torchs):
        weights = [torch.nn.Parameter(tensor.clone()) for tensor in start]
        optimizer = kind(weights, **options)
        generator = torch.Generator().manual_seed(1)
        for _ in range(20):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
        walked.append(weights)
    for a, b in zip(*walked):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_three_updates_worked_out_by_hand():
    # Four weights, sign quantized; constant gradient 1, no momentum: w falls by U every update.
    weight = torch.nn.Parameter(torch.tensor([0.05, 0.15, 0.25, 0.95]))
    optimizer = scheduled(SGDT, weight, lr=0.1, momentum=0.0, target=0.5, m=0.5)
    weight.grad = torch.ones(4)
    optimizer.step()                    # U = 0.1, as there is nothing to compare with: w0 crosses zero
    torch.testing.assert_close(weight.data, torch.tensor([-0.05, 0.05, 0.15, 0.85]))
    optimizer.step()                    # k = 1/4, K = 0.5 * 0.5 + 0.5 * 0.25 = 0.375, U = 0.1 + 0.1 * 0.125 = 0.1125
    assert optimizer.state[weight]["running_transition_rate"] == pytest.approx(0.375)
    torch.testing.assert_close(weight.data, torch.tensor([-0.1625, -0.0625, 0.0375, 0.7375]))
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()                    # k = 1/4, K = 0.3125, U = 0.1125 - 0.1 * 0.3125 = 0.08125
    assert optimizer.state[weight]["talr"] == pytest.approx(0.08125)


@pytest.mark.parametrize("rule, wanted", [("additive", 0.2 + 0.1 * (0.3 - 0.6)), ("multiplicative", 0.1),
                                          ("momentum_multiplicative", 0.9 * 0.2 + 0.1 * 0.1)])
def test_the_three_rules(rule, wanted):
    got = updated_talr(rule, torch.tensor(0.2), 0.3, torch.tensor(0.6), eta=0.1, m=0.9)
    assert float(got) == pytest.approx(wanted)
    unchanged = updated_talr(rule, torch.tensor(0.2), 0.6, torch.tensor(0.6), eta=0.1, m=0.9)
    assert float(unchanged) == pytest.approx(0.2)


@pytest.mark.parametrize("rule", RULES)
def test_talr_is_never_negative(rule):
    assert updated_talr(rule, torch.tensor(0.01), 0.0, torch.tensor(0.9), eta=10.0, m=0.99) >= 0


@pytest.mark.parametrize("optimizer, options", [(SGDT, {}), (AdamT, {}), (AdamWT, {"weight_decay": 0.5})])
def test_no_transition_without_talr(optimizer, options):
    weight = torch.nn.Parameter(torch.randn(1000))
    one = scheduled(optimizer, weight, target=1e-6, **options)
    weight.grad = torch.randn(1000)
    one.step()
    one.state[weight]["talr"].zero_()
    one.state[weight]["running_transition_rate"].fill_(1.0)        # far above the target: U stays at zero
    before = weight.data.clone()
    one.step()
    assert torch.equal(weight.data, before) and one.state[weight]["talr"] == 0


# Standard deviation of the gradient, so that every bit-width needs about the same U: a coarser grid has fewer transition points.
NOISE = {1: 0.16, 2: 0.07, 3: 0.034, 4: 0.018}


@pytest.mark.parametrize("bits", NOISE)
@pytest.mark.parametrize("rule", RULES)
def test_running_rate_follows_a_cosine_target(rule, bits):
    """Within 10 % (means over 400 updates) from a fifth of the walk until the target is a tenth of what it was.

    The gradient is stationary: independent noise, the weights kept in their range. The speed of the additive rule is its gain
    eta times what a unit of U moves (at U^0 = eta = 0.1 it needs gradients for which U is well below U^0); that of the others
    does not depend on it.
    """
    generator, total, target = torch.Generator().manual_seed(0), 16_000, 5e-3 * bits**0.5
    weight = torch.nn.Parameter(torch.rand(4000, generator=generator) * 2 - 1)
    optimizer = scheduled(SGDT, weight, rounded(bits), target, lr=0.1, rule=rule)
    errors = []
    for step in range(int(0.8 * total)):
        optimizer.param_groups[0]["lr"] = R = target * 0.5 * (1 + math.cos(math.pi * step / total))
        weight.grad = torch.randn(4000, generator=generator) * NOISE[bits]
        optimizer.step()
        weight.data.clamp_(-1, 1)
        errors.append((optimizer.state[weight]["running_transition_rate"] - R) / R)
    errors = torch.stack(errors[int(0.2 * total):])
    assert errors.unfold(0, 400, 400).mean(1).abs().max() < 0.1


def test_transitions_are_counted_once_per_update_whatever_happens_between():
    weight = torch.nn.Parameter(torch.tensor([0.05, 1.0]))
    optimizer = scheduled(SGDT, weight, lr=0.1, momentum=0.0, m=0.0)
    for _ in range(3):                                  # three forward passes, one update
        (weight.sum() / 3).backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()                                    # no gradient: no update, nothing counted
    weight.grad = torch.zeros(2)
    optimizer.step()
    assert optimizer.state[weight]["running_transition_rate"] == 0.5
    optimizer.step()
    assert optimizer.state[weight]["running_transition_rate"] == 0


@pytest.mark.parametrize("optimizer", [SGDT, AdamT, AdamWT])
def test_a_resumed_optimizer_walks_on_bit_for_bit(optimizer):
    def walk(weight, one, generator, steps):
        for _ in range(steps):
            weight.grad = torch.randn(50, generator=generator)
            one.step()

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(3)
    weight = torch.nn.Parameter(torch.randn(50))
    one = scheduled(optimizer, weight, target=0.05)
    walk(weight, one, generator, 10)
    copied, state, place = torch.nn.Parameter(weight.data.clone()), copy.deepcopy(one.state_dict()), generator.get_state()
    other = scheduled(optimizer, copied, target=0.05)
    other.load_state_dict(state)
    walk(weight, one, generator, 10)
    generator.set_state(place)
    walk(copied, other, generator, 10)
    assert torch.equal(weight, copied)
    assert other.state[copied]["discrete"].dtype == torch.int8
    assert torch.equal(one.state[weight]["talr"], other.state[copied]["talr"])


def test_a_scheduler_of_torch_moves_targets_and_rates_alike():
    weight, other = torch.nn.Parameter(torch.randn(8)), torch.nn.Parameter(torch.randn(8))
    optimizer = SGDT([{"params": [weight], "discretize": [sign], "lr": 0.02}, {"params": [other]}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for _ in range(5):
        weight.grad, other.grad = torch.randn(8), torch.randn(8)
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.05])


@pytest.mark.parametrize("group, says", [
    ({"lr": 0.0}, "target"), ({"lr": 1.5}, "target"), ({"rule": "sideways"}, "additive"), ({"m": 1.0}, "m: got"),
    ({"eta": -1.0}, "eta"), ({"discretize": [sign, sign]}, "one each"),
])
def test_what_is_not_allowed_is_said(group, says):
    group = {"params": [torch.nn.Parameter(torch.ones(2))], "discretize": [sign], "lr": 0.01} | group
    with pytest.raises(ValueError, match=says):
        SGDT([group])
