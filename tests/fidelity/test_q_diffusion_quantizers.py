"""Post-training quantizers against Q-Diffusion's code: ranges of weights, fake quantization, AdaRound."""

import pytest
import torch
from stored import normal, stored
from torch import Tensor

from quantlab.quantizers.functional import code_range, fake_quantize, search_range
from quantlab.quantizers.rounding import LearnedRounding
from quantlab.quantizers.uniform_affine import UniformAffineWeight

BITS = (2, 3, 4, 8)
SEARCHES = {"max": "min_max", "mse": "lp"}


def weight(seed: int) -> Tensor:
    """[3, 2, 3, 3], each channel with a size and tail of its own; the second has exact zeros."""
    w = normal(seed, 3, 2, 3, 3)
    w = w * torch.tensor([0.1, 1.0, 3.0]).view(3, 1, 1, 1) * (1 + w.abs())
    w[1, 0, 0] = 0.0
    return w


def quantized(bits: int, method: str) -> UniformAffineWeight:
    w = weight(bits)
    result = UniformAffineWeight(w.shape, bits, scale_search=SEARCHES[method])
    result.calibrate(w)
    return result


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize("bits", BITS)
def test_weights_rounded_to_nearest(bits, method):
    case, ours = stored("q_diffusion")[f"weight {bits} {method}"], quantized(bits, method)
    torch.testing.assert_close(ours.scale.flatten(), torch.tensor(case["delta"]), rtol=1e-5, atol=0)
    assert ours.zero_point.flatten().tolist() == case["zero_point"]
    torch.testing.assert_close(ours().flatten(), torch.tensor(case["out"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize("bits", BITS)
def test_learned_rounding(bits, method):
    """AdaRound's soft weight and the gradient of V, halfway through learning (V moved by noise), and the weight once
    hardened.

    Weights outside the range: in theirs V begins with what is left of w / s, and the clamp of codes lets nothing of it
    through; in ours V begins at an end, and nothing passes. So V differs there, and the weight does not.
    """
    case, w, ours = stored("q_diffusion")[f"adaround {bits} {method}"], weight(bits), quantized(bits, method)
    (q_min, q_max), ratio = code_range(bits, False), torch.round(w / ours.scale) + ours.zero_point
    floor = torch.floor(w / ours.scale) + ours.zero_point
    inside = ((floor >= q_min) & (floor < q_max)).flatten()
    assert inside.float().mean() > 0.6 and ratio.shape == w.shape
    ours = LearnedRounding(ours, w, 1.1, -0.1, straight_through=False)
    torch.testing.assert_close(
        ours.rounding.detach().flatten()[inside], torch.tensor(case["V"])[inside], rtol=1e-3, atol=1e-4
    )
    with torch.no_grad():
        ours.rounding.copy_(torch.where(inside.view_as(w), torch.tensor(case["V"]).view_as(w), ours.rounding))
        ours.rounding.add_(torch.where(inside.view_as(w), normal(77, *w.shape), 0.0))
    soft = ours()
    soft.backward(normal(78, *w.shape))
    torch.testing.assert_close(soft.detach().flatten(), torch.tensor(case["soft"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.rounding.grad.flatten(), torch.tensor(case["gradient of V"]), rtol=1e-4, atol=1e-6)
    ours = ours.fixed()
    torch.testing.assert_close(ours().flatten(), torch.tensor(case["hard"]), rtol=1e-5, atol=1e-6)


def test_an_integral_weight_inside_the_range():
    """Of a weight on a level, as zero, V begins where h is exactly 0. There the released code's clamp passes the
    gradient, 1.2 times the sigmoid's derivative at V = -log 11, and ours stops it: the ends of h are where weights
    outside the range are held.
    """
    case, nearest = stored("q_diffusion")["integral"], UniformAffineWeight(torch.Size([1, 3]), 4)
    nearest.zero_point.fill_(4.0)
    ours = LearnedRounding(nearest, torch.tensor([[0.0, 1.0, -2.0]]), 1.1, -0.1, straight_through=False)
    ours().sum().backward()
    assert ours.soft().tolist() == [[0.0, 0.0, 0.0]] and ours.rounding.grad.tolist() == [[0.0, 0.0, 0.0]]
    assert case["gradient of V"] == pytest.approx([1.2 * 11 / 144] * 3, rel=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_inputs(bits):
    """Fake quantization with a learned scale, at zero, half levels and both ends as well."""
    case, (q_min, q_max) = stored("q_diffusion")[f"activation {bits}"], code_range(bits, symmetric=False)
    grid = torch.tensor([q_min - 1, q_min - 0.5, q_min, q_min + 0.5, q_max - 0.5, q_max, q_max + 0.5, q_max + 1.0]) - 1
    x = (torch.cat([grid, normal(bits, 30) * q_max / 2]) * 0.25).requires_grad_()
    scale = torch.tensor(0.25, requires_grad=True)
    out = fake_quantize(x, scale, torch.tensor(1.0), q_min, q_max)
    out.backward(normal(79, 38))
    torch.testing.assert_close(out.detach(), torch.tensor(case["out"]))
    torch.testing.assert_close(x.grad, torch.tensor(case["x"]))
    torch.testing.assert_close(scale.grad, torch.tensor(case["delta"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_ranges_of_a_tensor(bits):
    case = stored("q_diffusion")[f"range {bits}"]
    for method, search in SEARCHES.items():
        scale, zero_point = search_range(normal(80, 1, 200) + 0.5, bits, False, search, 2.4)
        assert scale.item() == pytest.approx(case[method][0], rel=1e-5) and zero_point.item() == case[method][1]
