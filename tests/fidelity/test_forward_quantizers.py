"""Quantizers of weights and inputs against what their authors' code gives: outputs, gradients of the input and of what
is learned.

Inputs are normal values and, on the grid of the levels, both ends of the clip, zero, half levels and what lies beyond.
"""

import pytest
import torch
from policies import policy, quantize
from stored import normal, stored
from torch import Tensor, nn

from quantlab.quantizers.calibration import calibrate_activations
from quantlab.quantizers.dsq import DSQActivation, dsq
from quantlab.quantizers.ewgs import EWGSActivation, EWGSWeight
from quantlab.quantizers.fixed_point import FixedPointActivation, FixedPointWeight, clip_range
from quantlab.quantizers.learned_clipping import ClippedActivation, ClippedWeight
from quantlab.quantizers.lsq import LSQActivation, LSQWeight

BITS = (1, 2, 3, 4, 8)


def inputs(seed: int, low: float, high: float, step: float = 1.0) -> Tensor:
    """Levels are multiples of `step`, from low to high (in steps). First 13 values on the grid of levels, then 24
    normal ones.
    """
    grid = [low - 1, low - 0.5, low, low + 0.5, low + 1.5, -0.5, 0, 0.5, 1, 1.5, high - 0.5, high, high + 0.5]
    return torch.cat([torch.tensor(grid), normal(seed, 24) * (high - low) / 2 + (high + low) / 2]) * step


def compare(
    quantizer: nn.Module, x: Tensor, case: dict, gradients: dict[str, str], shape: tuple[int, ...] = (-1,)
) -> Tensor:
    """The quantizer's output, and the gradients of x and of the parameters named in `gradients`, against the case's.
    Returns the output's difference, which must be zero unless the caller knows where not.
    """
    x = x.clone().requires_grad_()
    out = quantizer(x.view(shape)).flatten()
    out.backward(normal(99, len(x)))
    torch.testing.assert_close(x.grad, torch.tensor(case["x"]), rtol=1e-5, atol=1e-6)
    for parameter, key in gradients.items():
        torch.testing.assert_close(getattr(quantizer, parameter).grad, torch.tensor(case[key]), rtol=1e-4, atol=1e-4)
    return out.detach() - torch.tensor(case["out"])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    "part, scale", [("weight", 1 - 1e-6), ("weight", 0.7), ("activation", 1 - 1e-6), ("activation", 1.3)]
)
def test_fixed_point(part, scale, bits):
    quantizer = FixedPointWeight(bits, learn_scale=True) if part == "weight" else FixedPointActivation(bits)
    quantizer.scale.data.fill_(scale)
    low, high, gamma = clip_range(bits, part == "weight")
    x = inputs(bits, low, high, 1 / gamma)
    difference = compare(quantizer, x, stored("fixed_point")[f"{part} {bits} {scale}"], {"scale": "s"})
    # half way, at zero: the released code rounds (0 + 1) / 2 to 0, that is -1; ours is the paper's sign
    if bits == 1 and part == "weight":
        assert (difference[x == 0] == 2).all() and (x == 0).sum() == 1
        difference = difference[x != 0]
    assert difference.abs().max() <= 1e-6


def test_initial_scales_of_fixed_point():
    cases = stored("fixed_point")["initial"]
    weight, activation = FixedPointWeight(2, learn_scale=True), FixedPointActivation(2)
    weight.calibrate(normal(5, 4, 9))
    activation.calibrate(normal(6, 50).abs())
    assert weight.scale.item() == pytest.approx(cases["weight"], rel=1e-6)
    assert activation.scale.item() == pytest.approx(cases["activation"], rel=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_mean_distance_to_the_transition_points(bits):
    """At one bit the released code's is larger by 0.5: it takes 1 - |u - round(u)|, u = (clip(w / s, -1, 1) + 1) /
    2.
    """
    quantizer, w = FixedPointWeight(bits, learn_scale=False), normal(7, 300)
    quantizer.scale.data.fill_(1.5)
    distance = quantizer.distance_to_transition_point(w).mean().item()
    assert distance + (0.5 if bits == 1 else 0) == pytest.approx(stored("fixed_point")["distance"][str(bits)], rel=1e-5)


@pytest.mark.parametrize("bits", BITS[1:])
@pytest.mark.parametrize("part", ["weight", "activation"])
@pytest.mark.parametrize("step", [0.5, 0.3])
def test_lsq(part, bits, step):
    quantizer = LSQWeight(bits, learn_scale=True) if part == "weight" else LSQActivation(bits)
    quantizer.scale.data.fill_(step)
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if part == "weight" else (0.0, 2.0**bits - 1)
    # with 0.3 nothing lies on the grid but by rounding
    x = inputs(bits, low, high, step)[0 if step == 0.5 else 13 :]
    case = stored("lsq")[f"{part} {bits} {step}"]
    difference = compare(quantizer, x, case, {"scale": "s"}, (1, -1))
    assert difference.abs().max() <= 1e-6 * max(1.0, high * step)


def test_the_step_of_lsq_that_we_keep_from_zero():
    """|s| + 1e-8 where the released code divides by s: at s = 1e-6 a hundredth of the step."""
    quantizer = LSQWeight(2, learn_scale=False)
    quantizer.scale.data.fill_(1e-6)
    assert float(quantizer(torch.ones(1))) == pytest.approx(1.01e-6) and quantizer(torch.ones(1)).isfinite().all()


def test_the_step_of_lsqs_inputs_gets_the_papers_gradient():
    """g = 1 / sqrt(N Q_P) with N the inputs of one image (Sec. 2.2); the released code's N counts those of the
    batch.
    """
    x = inputs(2, 0.0, 3.0, 0.5)[:36].view(4, 9)
    slopes = []
    for batch in (x, x.view(1, 36)):
        quantizer = LSQActivation(2)
        quantizer.scale.data.fill_(0.5)
        quantizer(batch).backward(normal(99, 36).view_as(batch))
        slopes.append(float(quantizer.scale.grad))
    assert slopes[0] == pytest.approx(slopes[1] * 4**0.5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("delta", [0.0, 0.3])
@pytest.mark.parametrize("part", ["weight", "activation"])
def test_ewgs(part, delta, bits):
    quantizer = EWGSWeight(bits, True, delta) if part == "weight" else EWGSActivation(bits, delta)
    quantizer.lower.data.fill_(-1.0)
    quantizer.upper.data.fill_(-1 + 0.25 * (2**bits - 1))
    x = inputs(bits, -4.0, 2.0**bits - 5, 0.25)
    case = stored("ewgs")[f"{part} {bits} {delta}"]
    assert compare(quantizer, x, case, {"lower": "l", "upper": "u"}).abs().max() <= 1e-6


def test_a_layer_of_ewgs():
    """Initial intervals, 3 std of n - 1 and the half-normal one, the output scale, and |s| of it once it is
    negative.
    """
    cases, x = stored("ewgs")["layer"], normal(31, 2, 3, 5, 5).abs()
    layer = nn.Conv2d(3, 4, 3, bias=False)
    layer.weight.data.copy_(normal(32, 4, 3, 3, 3))
    net = nn.Sequential(nn.Conv2d(3, 3, 1), layer, nn.Conv2d(4, 1, 1))
    quantize(net, policy("ewgs", 2, first=(32, 32), last=(32, 32)))
    layer = net[1]
    calibrate_activations(nn.Sequential(layer), lambda: layer(x))
    for name, value in (
        ("upper of weight", layer.weight_quantizer.upper),
        ("lower of weight", layer.weight_quantizer.lower),
        ("upper of activation", layer.activation_quantizer.upper),
        ("lower of activation", layer.activation_quantizer.lower),
        ("output scale", layer.output_scale),
    ):
        assert value.item() == pytest.approx(cases[name], rel=1e-5), name
    layer.output_scale.data.neg_()
    layer(x).backward(normal(33, 2, 4, 3, 3))
    torch.testing.assert_close(layer(x).flatten()[:20], torch.tensor(cases["out"]), rtol=1e-4, atol=1e-5)
    assert layer.output_scale.grad.item() == pytest.approx(cases["gradient of output scale"], rel=1e-4)
    torch.testing.assert_close(
        layer.weight.grad.flatten()[:20], torch.tensor(cases["gradient of weight"]), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("bits", BITS[1:])
@pytest.mark.parametrize("part", ["weight", "activation", "signed activation"])
def test_learned_clipping(part, bits):
    signed = part != "activation"
    high = 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1
    quantizer = ClippedWeight(bits, learn_scale=True) if part == "weight" else ClippedActivation(bits)
    if part != "weight":
        quantizer.is_signed = signed
    quantizer.clipping_value.data.fill_(0.5 * high)
    x = inputs(bits, -high if signed else 0.0, high, 0.5)
    case = stored("learned_clipping")[f"{part} {bits}"]
    difference = compare(quantizer, x, case, {})
    half_way = (2 * x).frac().abs() == 0.5
    # half way to the even level; theirs are numbered from the lowest, an odd one, so that they go to the odd: one step
    # apart
    if signed:
        inside = half_way & (x.abs() < 0.5 * high)
        steps = difference[inside].abs() / 0.5
        # rounding decided for some
        assert (((steps - 1).abs() < 1e-5) | (steps < 1e-5)).all() and (steps > 0.5).sum() >= 4
    else:
        inside = torch.zeros_like(half_way)
    assert difference[~inside].abs().max() <= 1e-6 * max(1.0, high)
    steps_apart = (normal(99, len(x)) * difference)[inside].sum() / (0.5 * high)
    torch.testing.assert_close(
        quantizer.clipping_value.grad, torch.tensor(case["s"]) + steps_apart, rtol=1e-4, atol=1e-4
    )


def test_initial_clipping_values():
    cases = stored("learned_clipping")["initial"]
    weight, activation, signed = ClippedWeight(4, True), ClippedActivation(4), ClippedActivation(4)
    weight.calibrate(normal(5, 4, 9))
    activation.calibrate(normal(6, 50).abs())
    signed.calibrate(normal(6, 50))
    for quantizer, key in ((weight, "weight"), (activation, "activation"), (signed, "signed activation")):
        assert quantizer.clipping_value.item() == pytest.approx(cases[key], rel=1e-6)


def test_a_negative_clipping_value_turns_no_sign():
    """The released code divides by |s| and multiplies by s, so that a negative s turns every weight around; ours
    takes |s| twice.
    """
    case, quantizer, x = (
        stored("learned_clipping")["negative"],
        ClippedWeight(4, learn_scale=True),
        inputs(4, -7.0, 7.0, 0.5)[13:],
    )
    quantizer.clipping_value.data.fill_(-3.5)
    torch.testing.assert_close(quantizer(x).detach(), -torch.tensor(case["out"][13:]))


class DSQ(nn.Module):
    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits
        self.l, self.u, self.alpha = (
            nn.Parameter(torch.tensor(value)) for value in (-1.0, -1 + 0.25 * (2**bits - 1), 0.2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return dsq(x, self.l, self.u, self.alpha, self.bits)


@pytest.mark.parametrize("bits", BITS)
def test_dsq(bits):
    """Away from half levels and ends, where the re-implementation differs: it takes the lower level half way, ours the
    even one; and its interval ends at the largest value after clipping, so that the gradient of the end goes in part to
    an input that equals it.
    """
    quantizer = DSQ(bits)
    l, u = quantizer.l.item(), quantizer.u.item()
    x = normal(bits, 40) * (u - l) / 1.5 + (u + l) / 2
    x[:2] = torch.tensor([l - 1, u + 1])
    difference = compare(quantizer, x, stored("dsq")[str(bits)], {"l": "l", "u": "u", "alpha": "alpha"})
    assert difference.abs().max() <= 1e-5 * max(1.0, u)


def test_dsq_half_way():
    case, quantizer = stored("dsq")["half way"], DSQActivation(2)
    quantizer.upper.data.fill_(3.0)
    x = torch.tensor([0.0, 0.5, 1.5, 2.5, 3.0])
    assert case["out"] == [0.0, 0.0, 1.0, 2.0, 3.0] and quantizer(x).tolist() == [0.0, 0.0, 2.0, 2.0, 3.0]
