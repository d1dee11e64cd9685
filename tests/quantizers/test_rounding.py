"""A weight's life: rounded to nearest, learned, fixed."""

import copy

import pytest
import torch
from torch import nn

from quantlab.quantizers.functional import code_range
from quantlab.quantizers.insert import drop_float_weights
from quantlab.quantizers.layer import QuantizedLayer, SplitWeight
from quantlab.quantizers.rounding import LearnedRounding, fix_rounding, held_weights, learn_rounding, learned_roundings
from quantlab.quantizers.uniform_affine import CodedWeight, UniformAffineWeight


def make_weight(bits=4, symmetric=False):
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(3))
    nearest = UniformAffineWeight(weight.shape, bits, symmetric, scale_search="min_max")
    nearest.calibrate(weight)
    return weight, nearest


def learned(weight, nearest, straight_through=False):
    return LearnedRounding(nearest, weight, 1.1, -0.1, straight_through)


@pytest.mark.parametrize("symmetric", [False, True])
def test_soft_weight_starts_as_the_weight_and_is_fixed_to_nearest(symmetric):
    weight, nearest = make_weight(symmetric=symmetric)
    soft = learned(weight, nearest)
    (q_min, q_max), ratio = code_range(4, symmetric), weight / nearest.scale + nearest.zero_point
    inside = (ratio >= q_min) & (ratio <= q_max)  # the rest is clipped by the rounding of z
    assert inside.float().mean() > 0.9
    torch.testing.assert_close(soft()[inside], weight[inside], rtol=0, atol=1e-5)
    torch.testing.assert_close(soft.fixed()(), nearest())


def test_every_weight_is_fixed_to_one_of_its_two_neighbours():
    weight, nearest = make_weight(bits=3)
    soft = learned(weight, nearest)
    with torch.no_grad():
        soft.rounding.normal_(generator=torch.Generator().manual_seed(0))
    fixed = soft.fixed()
    ratio, codes = weight / fixed.scale + fixed.zero_point, fixed.codes.float()
    low = torch.floor(ratio).clamp(0, 6)
    assert ((codes == low) | (codes == low + 1)).all()
    assert fixed.codes.dtype == torch.uint8 and not list(fixed.parameters())


def test_settled_rounding_is_exactly_hard():
    soft = learned(*make_weight())
    soft.settle()
    assert set(soft.soft().unique().tolist()) <= {0.0, 1.0} and not soft.rounding.requires_grad
    assert torch.equal(soft.fixed()(), soft())


def test_straight_through_is_hard_forward_and_soft_backward():
    weight, nearest = make_weight()
    hard = learned(weight, nearest, straight_through=True)
    torch.testing.assert_close(hard(), nearest())
    hard().sum().backward()
    expected = torch.autograd.grad((hard.soft() * hard.scale).sum(), hard.rounding)[0]
    torch.testing.assert_close(hard.rounding.grad, expected)
    assert torch.equal(hard.fixed()(), hard())


def test_held_weight_gathers_the_same_gradient():
    weight, nearest = make_weight()
    soft = learned(weight, nearest)
    inputs = [torch.randn_like(weight) for _ in range(3)]
    for x in inputs:
        (soft() * x).sum().square().backward()
    expected = soft.rounding.grad.clone()
    soft.rounding.grad = None
    with held_weights([soft]):
        for x in inputs:
            (soft() * x).sum().square().backward()
    torch.testing.assert_close(soft.rounding.grad, expected)
    assert soft().grad_fn is not None  # held no longer


def test_a_weight_is_held_no_longer_once_an_iteration_has_failed():
    soft = learned(*make_weight())
    with pytest.raises(KeyboardInterrupt), held_weights([soft]):
        raise KeyboardInterrupt
    assert soft.held is None


@pytest.mark.parametrize("sizes", [None, [2, 3]])
def test_a_layer_keeps_its_float_weight_until_its_rounding_is_learned_or_fixed(sizes):
    layer = nn.Conv2d(5, 6, 3).requires_grad_(False)
    shapes = [torch.Size((6, size, 3, 3)) for size in sizes or [5]]
    parts = [UniformAffineWeight(shape, 4) for shape in shapes]
    network = nn.Sequential(QuantizedLayer(layer, parts[0] if sizes is None else SplitWeight(parts, sizes)))
    network[0].weight_quantizer.calibrate(layer.weight)
    x = torch.randn(2, 5, 6, 6)
    nearest, twin = network(x), copy.deepcopy(network)
    assert len(learn_rounding(network, 1.1, -0.1, straight_through=True)) == len(shapes)
    assert len(learned_roundings(network)) == len(shapes) and network[0].weight is layer.weight
    drop_float_weights(network)
    torch.testing.assert_close(network(x), nearest)
    fix_rounding(network)
    assert sum(type(module) is CodedWeight for module in network.modules()) == len(shapes)
    assert "0.weight" not in network.state_dict() and "0.bias" in network.state_dict()
    torch.testing.assert_close(network(x), nearest)
    assert torch.equal(twin(x), nearest)
