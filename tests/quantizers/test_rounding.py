"""A weight's life: rounded to nearest, learned, fixed."""

import copy

import pytest
import torch
from policies import policy
from torch import nn

from quantlab.methods.kept_graphs import graph_bytes
from quantlab.quantizers import rounding
from quantlab.quantizers.calibration import calibrate_weights, grouped_activations, observed_ranges
from quantlab.quantizers.functional import code_range
from quantlab.quantizers.insert import drop_float_weights, insert
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


def test_a_weight_is_held_no_longer_once_an_iteration_has_failed(monkeypatch):
    soft = learned(*make_weight())
    with pytest.raises(KeyboardInterrupt), held_weights([soft]):
        raise KeyboardInterrupt
    assert soft.held is None
    monkeypatch.setattr(rounding, "HELD_WHOLE", 0)
    hard = learned(*make_weight(), straight_through=True)
    with pytest.raises(KeyboardInterrupt), held_weights([hard]):
        assert hard.leaf is not None
        raise KeyboardInterrupt
    assert hard.leaf is None and hard().grad_fn is not None


def large_network(symmetric=False):
    """Convolutions and a Linear, one of them with a split input, inputs quantized too, whose rounding is learned."""
    network = nn.Sequential(
        nn.Conv2d(5, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 4, 3), nn.Flatten(2), nn.Linear(16, 8), nn.SiLU()
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    own = {"weight": {"scale_search": "min_max", "symmetric": symmetric}, "activation": {"scale_search": "min_max"}}
    chosen = policy("uniform_affine", 4, 6, own=own)
    insert(network.requires_grad_(False), chosen, {"0": 2})
    calibrate_weights(network)
    with observed_ranges(network):
        network(torch.randn(3, 5, 6, 6, generator=torch.Generator().manual_seed(1)))
    learn_rounding(network, 1.1, -0.1, straight_through=True)
    drop_float_weights(network)
    for quantizer in grouped_activations(network):
        quantizer.log_scale[0].requires_grad_(True)
    return network


@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_held_as_codes_give_the_same_bits_in_less_memory(symmetric, monkeypatch):
    inputs = torch.randn(3, 3, 5, 6, 6, generator=torch.Generator().manual_seed(2))
    found, sizes = [], []
    for whole in (2**28, 0):
        monkeypatch.setattr(rounding, "HELD_WHOLE", whole)
        network = large_network(symmetric)
        weights = learned_roundings(network)
        optimizer = torch.optim.Adam([one for one in network.parameters() if one.requires_grad], lr=0.1)
        for _ in range(2):  # the second in the memory of the first's gradients
            with held_weights(weights):
                held = [one.held for one in weights if one.held is not None]
                for x in inputs:
                    with torch.no_grad():
                        before = network(x)
                    output = network(x)
                    assert torch.equal(output, before)
                    output.square().mean().backward()
                sizes.append(
                    graph_bytes(lambda: network(inputs[0]), [*network.parameters(), *network.buffers(), *held])
                )
            gradients = [one.grad.clone() for group in optimizer.param_groups for one in group["params"]]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        found.append([output.detach(), *gradients, *(one.detach().clone() for one in network.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
    # Inputs of products are made again too, but for the joined one of the split layer
    assert sizes[0] == sizes[1] == sizes[2] + 4 * 3 * (6 * 36 + 4 * 16) and sizes[2] == sizes[3]


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
