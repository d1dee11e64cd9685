"""Laws of every quantizer for training: levels, transition points and step sizes agree with what the network sees."""

import pytest
import torch
from policies import policy, quantize
from torch import nn

from quantlab.quantizers.calibration import calibrate_activations
from quantlab.quantizers.insert import quantizer_parameters
from quantlab.quantizers.learned_clipping import ClippedActivation
from quantlab.quantizers.trained import deviation

NAMES = ("fixed_point", "lsq", "ewgs", "dsq", "binary", "reactnet")
CASES = [
    (name, bits)
    for name in NAMES
    for bits in (1, 2, 3, 8)
    if not (name == "lsq" and bits == 1) and not (name in ("binary", "reactnet") and bits > 1)
]


def weight_quantizer(name, bits, weight, learn_scale=False):
    quantizer = policy(name, bits, learn_weight_scale=learn_scale).weight(weight.shape, bits)
    quantizer.calibrate(weight)
    return quantizer


@pytest.mark.parametrize("name, bits", CASES)
def test_levels_change_at_the_transition_points_and_where_the_output_does(name, bits):
    quantizer = weight_quantizer(name, bits, torch.randn(1, 40001, generator=torch.Generator().manual_seed(0)) * 0.4)
    low, high = (float(quantizer.latent(torch.tensor(end)).flatten()[0]) for end in quantizer.limits)
    weight = torch.linspace(1.2 * low - 0.2 * high, 1.2 * high - 0.2 * low, 40002)[None]
    out, levels = quantizer(weight).detach()[0], quantizer.discrete(weight)[0]
    assert levels.min() >= -128 and levels.max() <= 127 and torch.equal(levels, levels.round())
    assert len(levels.unique()) == 2**bits == len(out.unique())
    changes = torch.nonzero(levels.diff())[:, 0]
    assert torch.equal(changes, torch.nonzero(out.diff())[:, 0])
    normalized = quantizer.normalized(weight)[0]
    crossed = (normalized[changes] + normalized[changes + 1]) / 2
    torch.testing.assert_close(crossed, torch.tensor(quantizer.transition_points), atol=0.02, rtol=0)
    assert quantizer.distance_to_transition_point(weight)[0, changes].max() < 0.02


@pytest.mark.parametrize("value", [1.0, 1e-3, -2.0])
def test_a_constant_input_is_not_erased(value):
    """As what a softmax over a single token gives: it has no deviation that a scale could come from."""
    x, quantizer = torch.full((4, 3, 2, 2), value), ClippedActivation(4)
    quantizer.calibrate(x)
    torch.testing.assert_close(quantizer(x), x, rtol=0.2, atol=0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values, wanted", [([3.0], 3.0), ([-2.0], 2.0), ([1.0, 3.0], 2**0.5), ([0.0], 0.0)])
def test_a_deviation_is_that_of_n_minus_1_and_of_one_value_its_size(values, wanted):
    assert deviation(torch.tensor(values)).item() == pytest.approx(wanted)


@pytest.mark.parametrize("name, bits", CASES)
def test_average_effective_step_size_is_delta_times_the_transition_rate(name, bits):
    torch.manual_seed(0)
    before = torch.randn(8, 3000) * 0.3
    quantizer = weight_quantizer(name, bits, before)
    after = before + torch.randn_like(before) * 1e-3
    levels, out = quantizer.discrete(before), quantizer(before)
    change = (quantizer.discrete(after) - levels).abs().mean()
    moved = (quantizer(after) - out).abs()
    # not what a binary scale drifts
    moved = moved[moved > 0.5 * quantizer.effective_step_size].sum() / moved.numel()
    assert change > 0
    torch.testing.assert_close(
        change * quantizer.effective_step_size, moved * (0.5 if bits == 1 else 1), rtol=0.01, atol=0
    )


@pytest.mark.parametrize("name, bits", CASES)
def test_latent_is_the_inverse_and_its_levels_stay(name, bits):
    torch.manual_seed(0)
    weight = torch.randn(4, 500)
    quantizer = weight_quantizer(name, bits, weight)
    levels = quantizer.discrete(weight)
    assert torch.equal(quantizer.discrete(quantizer.latent(levels)), levels)
    inside = (quantizer.in_levels(weight) > quantizer.limits[0]) & (quantizer.in_levels(weight) < quantizer.limits[1])
    assert inside.any()
    torch.testing.assert_close(
        quantizer.latent(quantizer.normalized(weight))[inside], weight[inside], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name, bits", CASES)
def test_frozen_scales_leave_transition_points_to_the_weights(name, bits):
    weight = torch.randn(4, 500, requires_grad=True)
    quantizer = weight_quantizer(name, bits, weight.detach())
    quantizer(weight).square().sum().backward()
    assert weight.grad.abs().sum() > 0
    moved = [key for key, parameter in quantizer.named_parameters() if parameter.requires_grad]
    assert moved in ([], ["alpha"])  # DSQ's steepness moves no transition point


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name, bits", CASES)
def test_inputs_get_all_their_levels_and_a_gradient(name, bits, signed):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(6, 4, 3), torch.randn(32, 6, 10, 10)
    x = x if signed else x.relu()
    quantizer = policy(name, bits).activation(layer, bits)
    quantizer.calibrate(x)
    x = (8 * x).requires_grad_(True)  # LSQ's first step reaches all of its levels only far out
    out = quantizer(x)
    assert 0.9 * 2**bits < len(out.unique()) <= 2**bits and quantizer.is_signed == signed and out.shape == x.shape
    out.square().mul(torch.randn_like(out)).sum().backward()
    assert x.grad.abs().sum() > 0 and all(parameter.grad.abs().sum() > 0 for parameter in quantizer.parameters())
    again = policy(name, bits).activation(layer, bits)
    again.load_state_dict(quantizer.state_dict())
    assert torch.equal(again(x), out)


@pytest.mark.parametrize("name", NAMES)
def test_a_linear_network_takes_any_of_them(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    x = torch.randn(7, 4, 5)  # tokens, as a transformer's
    bits = 1 if name in ("binary", "reactnet") else 2
    quantize(net, policy(name, bits))
    calibrate_activations(net, lambda: net(x))
    net(x).square().sum().backward()
    assert net[2].weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in quantizer_parameters(net))


@pytest.mark.parametrize("name, bits", CASES)
@pytest.mark.parametrize("value", [0.01, -0.01])
def test_a_constant_weight_is_not_clipped_whole(name, bits, value):
    weight = torch.full((4, 9), value, requires_grad=True)
    quantizer = weight_quantizer(name, bits, weight.detach())
    quantizer(weight).sum().backward()
    assert weight.grad.isfinite().all() and weight.grad.abs().min() > 0


@pytest.mark.parametrize("name, bits", CASES)
def test_zeros_are_quantized_to_finite_numbers_with_finite_gradients(name, bits):
    weight = torch.zeros(4, 9, requires_grad=True)
    out = weight_quantizer(name, bits, weight.detach(), learn_scale=True)(weight)
    out.sum().backward()
    assert out.isfinite().all() and weight.grad.isfinite().all()
