"""The fixed-point quantizer: Eq. (13) by hand, its gradient against autograd, transition points where they should
be.
"""

import pytest
import torch

from quantlab.quantizers.fixed_point import (
    EPS,
    FixedPointActivation,
    FixedPointWeight,
    _composed,
    clip_range,
    fixed_point,
)

ONE = torch.tensor(1.0 - EPS)  # a scale whose quotient is exact


@pytest.mark.parametrize(
    "bits, signed, levels",
    [
        (2, True, [-1, -0.5, 0, 0.5]),
        (2, False, [0, 0.25, 0.5, 0.75]),
        (1, True, [-1, 1]),
        (1, False, [0, 1]),
        (3, True, [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75]),
    ],
)
def test_levels(bits, signed, levels):
    x = torch.linspace(-3, 3, 1001)
    assert sorted(set(fixed_point(x, ONE, bits, signed).tolist())) == levels


def test_the_scale_normalizes_and_does_not_come_back():
    x = torch.tensor([0.3, -0.9, 2.0])
    torch.testing.assert_close(fixed_point(x * 7, ONE * 7, 2, True), fixed_point(x, ONE, 2, True))


@pytest.mark.parametrize("quantizer", [fixed_point, _composed])
@pytest.mark.parametrize("bits, signed", [(1, True), (1, False), (2, True), (2, False), (4, True), (4, False)])
def test_gradient_is_that_of_the_composition_with_straight_through_rounding(bits, signed, quantizer):
    torch.manual_seed(0)
    x, scale = (
        torch.randn(200, dtype=torch.float64, requires_grad=True),
        torch.tensor(0.7, dtype=torch.float64, requires_grad=True),
    )
    alpha, beta, gamma = clip_range(bits, signed)
    v = (gamma * x / (scale.abs() + EPS)).clamp(alpha, beta)
    hard = torch.where(v >= 0, 1.0, -1.0) if bits == 1 and signed else v.round()
    composed = (v + (hard - v).detach()) / gamma
    weight = torch.randn(200, dtype=torch.float64)
    wanted = torch.autograd.grad((composed * weight).sum(), (x, scale))
    ours = quantizer(x, scale, bits, signed)
    torch.testing.assert_close(ours, composed)
    for got, want in zip(torch.autograd.grad((ours * weight).sum(), (x, scale)), wanted):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_discrete_weights_are_the_output_in_steps_and_change_at_transition_points(bits):
    weight = FixedPointWeight(bits, learn_scale=False)
    w = torch.linspace(-4, 4, 16001)
    weight.calibrate(w / 3)
    discrete = weight.discrete(w)
    torch.testing.assert_close(discrete / clip_range(bits, True)[2], weight(w))
    normalized = weight.normalized(w)
    changes = torch.nonzero(discrete.diff())[:, 0]
    crossed = (normalized[changes] + normalized[changes + 1]) / 2
    assert len(changes) == len(weight.transition_points)
    torch.testing.assert_close(crossed, torch.tensor(weight.transition_points), atol=0.05, rtol=0)


def test_effective_step_size_of_a_layer_is_delta_times_its_transition_rate():
    torch.manual_seed(0)
    for bits in (1, 2, 4):
        quantizer = FixedPointWeight(bits, learn_scale=False)
        before = torch.randn(5000)
        quantizer.calibrate(before)
        after = before + torch.randn(5000) * 0.01
        k = (quantizer.discrete(after) != quantizer.discrete(before)).float().mean()
        moved = (quantizer(after) - quantizer(before)).abs().mean() * (0.5 if bits == 1 else 1)  # Eqs. (7), (8)
        delta = 1 if bits == 1 else 1 / clip_range(bits, True)[2]
        assert k > 0
        torch.testing.assert_close(moved, delta * k)
        change = (quantizer.discrete(after) - quantizer.discrete(before)).abs().mean() * quantizer.effective_step_size
        torch.testing.assert_close(change, moved)


def with_scale_one(bits):
    quantizer = FixedPointWeight(bits, learn_scale=False)
    quantizer.scale.data.copy_(ONE)
    return quantizer


def test_distance_to_transition_point():
    weight = torch.tensor([-2.0, -0.5, -0.375, 0.0, 0.3, 5.0])  # gamma 2: in levels -4 -1 -.75 0 .6 10
    torch.testing.assert_close(
        with_scale_one(2).distance_to_transition_point(weight), torch.tensor([0.5, 0.5, 0.25, 0.5, 0.1, 0.5])
    )
    weight = torch.tensor([-1.5, 0.2, 0.0])
    torch.testing.assert_close(with_scale_one(1).distance_to_transition_point(weight), torch.tensor([0.5, 0.1, 0.0]))


def test_activation_scale_comes_from_the_first_batch():
    torch.manual_seed(0)
    quantizer = FixedPointActivation(2)
    quantizer.calibrate(torch.randn(200_000).abs() * 1.7)  # half-normal: std 1.7 sqrt(1 - 2/pi)
    assert quantizer.scale.item() == pytest.approx(3 * 1.7, rel=0.01) and not quantizer.is_signed


def test_a_negative_input_makes_the_levels_signed_and_a_checkpoint_remembers():
    torch.manual_seed(0)
    quantizer, x = FixedPointActivation(2), torch.randn(1000)
    quantizer.calibrate(x)
    assert quantizer.scale.item() == pytest.approx(3 * x.std().item(), rel=0.01)
    assert sorted(set(quantizer(x).tolist())) == [-1, -0.5, 0, 0.5]
    again = FixedPointActivation(2)
    again.load_state_dict(quantizer.state_dict())
    assert torch.equal(again(x), quantizer(x))
    never = FixedPointActivation(2, signed=False)
    never.calibrate(x)
    assert never(x).min() == 0


def test_zero_is_a_positive_sign():
    assert with_scale_one(1).discrete(torch.zeros(1)) == 1
