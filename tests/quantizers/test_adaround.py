"""AdaRound's equations by hand, and a weight's life: calibrated, learned, hardened."""

import pytest
import torch

from quantlab.quantizers import adaround
from quantlab.quantizers.weight import QuantizedWeight


def test_rectified_sigmoid_by_hand():
    # h(0) = 0.5 * 1.2 - 0.1 = 0.5; it reaches exactly 0 and 1 at finite V = -/+ log 11
    assert adaround.rectified_sigmoid(torch.tensor([0.0, 50.0, -50.0])).tolist() == pytest.approx([0.5, 1.0, 0.0])
    edge = torch.log(torch.tensor(11.0, dtype=torch.float64))
    assert adaround.rectified_sigmoid(torch.stack([edge, -edge])).tolist() == pytest.approx([1.0, 0.0], abs=1e-9)


def test_inverse_is_inverse():
    fraction = torch.linspace(0, 1, 11, dtype=torch.float64)
    back = adaround.rectified_sigmoid(adaround.inverse_rectified_sigmoid(fraction))
    torch.testing.assert_close(back, fraction)


def test_regularizer_by_hand():
    # 1 - |2h-1|^2 at h = 0, 1/4, 1/2, 1: 0, 3/4, 1, 0
    assert adaround.rounding_regularizer(torch.tensor([0.0, 0.25, 0.5, 1.0]), 2.0).item() == pytest.approx(1.75)


def test_annealing_by_hand():
    assert adaround.annealed_beta(0.1, 20, 2, 0.2) is None
    assert adaround.annealed_beta(0.2, 20, 2, 0.2) == pytest.approx(20)
    assert adaround.annealed_beta(0.6, 20, 2, 0.2) == pytest.approx(11)
    assert adaround.annealed_beta(1.0, 20, 2, 0.2) == pytest.approx(2)


def make_weight(bits=4, symmetric=False):
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(3))
    quantized = QuantizedWeight(weight.shape, bits, symmetric, "output_channel")
    quantized.calibrate(weight, "min_max", 2.4)
    return weight, quantized


@pytest.mark.parametrize("symmetric", [False, True])
def test_soft_weight_starts_as_the_weight_and_hardens_to_nearest(symmetric):
    weight, quantized = make_weight(symmetric=symmetric)
    nearest = quantized().clone()
    quantized.learn_rounding(weight, 1.1, -0.1, straight_through=False)
    ratio = weight / quantized.scale + quantized.zero_point
    inside = (ratio >= quantized.q_min) & (ratio <= quantized.q_max)  # the rest is clipped by the rounding of z
    assert inside.float().mean() > 0.9
    torch.testing.assert_close(quantized()[inside], weight[inside], rtol=0, atol=1e-5)
    quantized.harden()
    torch.testing.assert_close(quantized(), nearest)


def test_every_weight_hardens_to_one_of_its_two_neighbours():
    weight, quantized = make_weight(bits=3)
    quantized.learn_rounding(weight, 1.1, -0.1, straight_through=False)
    with torch.no_grad():
        quantized.rounding.normal_(generator=torch.Generator().manual_seed(0))
    quantized.harden()
    ratio, codes = weight / quantized.scale + quantized.zero_point, quantized.codes.float()
    low = torch.floor(ratio).clamp(0, 6)
    assert ((codes == low) | (codes == low + 1)).all()
    assert quantized.codes.dtype == torch.uint8 and quantized.rounding is None


def test_settled_rounding_is_exactly_hard():
    weight, quantized = make_weight()
    quantized.learn_rounding(weight, 1.1, -0.1, straight_through=False)
    quantized.settle()
    settled = quantized().clone()
    assert set(quantized.soft().unique().tolist()) <= {0.0, 1.0}
    quantized.harden()
    assert torch.equal(quantized(), settled)


def test_straight_through_is_hard_forward_and_soft_backward():
    weight, quantized = make_weight()
    nearest = quantized().clone()
    quantized.learn_rounding(weight, 1.1, -0.1, straight_through=True)
    torch.testing.assert_close(quantized(), nearest)
    quantized().sum().backward()
    expected = torch.autograd.grad((quantized.soft() * quantized.scale).sum(), quantized.rounding)[0]
    torch.testing.assert_close(quantized.rounding.grad, expected)
    hard = quantized().detach().clone()
    quantized.harden()
    assert torch.equal(quantized(), hard)


def test_held_weight_gathers_the_same_gradient():
    weight, quantized = make_weight()
    quantized.learn_rounding(weight, 1.1, -0.1, straight_through=False)
    inputs = [torch.randn_like(weight) for _ in range(3)]
    for x in inputs:
        (quantized() * x).sum().square().backward()
    expected = quantized.rounding.grad.clone()
    quantized.rounding.grad = None
    quantized.hold()
    for x in inputs:
        (quantized() * x).sum().square().backward()
    quantized.release()
    torch.testing.assert_close(quantized.rounding.grad, expected)
