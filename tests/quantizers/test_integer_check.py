"""The integer check: true of every kind of layer, and not of a layer that leaves its grid."""

import pytest
import timm
import torch
from policies import policy, quantize
from torch import nn

from quantlab.config import instantiate
from quantlab.config.catalog import options
from quantlab.errors import RunError
from quantlab.families import section as family_section
from quantlab.quantizers.calibration import calibrate_activations
from quantlab.quantizers.insert import quantized_layers
from quantlab.quantizers.integer_check import check_integers

NAMES = ("learned_clipping", "lsq", "fixed_point")


def wrapped(
    quantizer: str, bits: int = 4, gradient_bits: int | None = None, net: nn.Module | None = None
) -> tuple[nn.Module, torch.Tensor]:
    """Convolutions with stride, groups, dilation and bias, and a linear layer, all quantized; and a batch."""
    torch.manual_seed(0)
    net = net or nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 6, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 5 * 5, 7),
    )
    gradient = {"bits": gradient_bits or bits, "alpha": 0.05, "granularity": "channel"}
    x = torch.randn(8, 3, 10, 10)
    quantize(net, policy(quantizer, bits, gradient=gradient))
    calibrate_activations(net, lambda: net(x))
    return net, x


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_integers_give_what_the_simulation_gives(name, bits):
    net, x = wrapped(name, bits)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = check_integers(net, lambda: net(x).square().mean())
    assert found["layers"] == 4 and found["products"] == 12
    assert 0 < found["largest_difference"] < 1e-5 and found["largest_accumulator"] > 7
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("gradient_bits", [9, 12, 16])
def test_gradients_of_more_than_8_bits(gradient_bits):
    net, x = wrapped("lsq", 8, gradient_bits)
    found = check_integers(net, lambda: net(x).square().mean())
    assert (
        found["products"] == 12
        and found["largest_difference"] < 1e-5
        and found["largest_accumulator"] > 2**gradient_bits
    )


def test_channels_of_a_depthwise_layer_have_scales_of_their_own():
    torch.manual_seed(1)
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    scale = nn.Parameter(10.0 ** torch.linspace(-3, 2, 8).view(1, 8, 1, 1))

    class Scaled(nn.Module):
        def forward(self, x):
            return x * scale

    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), depthwise, Scaled(), nn.Conv2d(8, 4, 1))
    net, x = wrapped("lsq", 4, net=net)
    layers = dict(quantized_layers(net))
    assert {name: layer.gradient_quantizer.per_channel for name, layer in layers.items()} == {
        "0": False,
        "1": True,
        "3": False,
    }
    found = check_integers(net, lambda: net(x).square().mean())
    assert found["layers"] == 3 and found["products"] == 9 and found["largest_difference"] < 1e-5
    net(x).square().mean().backward()
    # with one range the small channels' would be lost
    assert (layers["1"].weight.grad.abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("part", ["weight_quantizer", "activation_quantizer"])
def test_a_layer_off_its_grid_is_found(part):
    net, x = wrapped("learned_clipping")
    layer = dict(quantized_layers(net))["3"]
    quantizer = getattr(layer, part)
    honest = quantizer.forward
    quantizer.forward = lambda tensor: honest(tensor) + 0.3 * quantizer.grid().scale
    with pytest.raises(RunError, match="layer 3.*beside its integer"):
        check_integers(net, lambda: net(x).square().mean())


def test_a_grid_that_is_no_multiples_of_a_step_is_refused():
    net, x = wrapped("ewgs")
    with pytest.raises(RunError, match="layer .*, [xw]: integers: got a grid with a zero point"):
        check_integers(net, lambda: net(x).square().mean())


def test_a_product_that_is_not_the_operands_is_found():
    net, x = wrapped("learned_clipping")
    layer = dict(quantized_layers(net))["8"]
    product = layer._product
    layer._product = lambda x, weight, bias: product(x, weight * 1.001, bias)
    with pytest.raises(RunError, match="layer 8, .* differ from the simulation"):
        check_integers(net, lambda: net(x).square().mean())


@pytest.mark.parametrize(
    "kind",
    [
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(3, 4, 3, padding="same", groups=1),
        nn.Conv2d(3, 6, (2, 3), padding="same", groups=3),
        nn.Conv2d(3, 4, 3, 2, 2, padding_mode="replicate"),
        timm.layers.Conv2dSame(3, 4, 4, 3),
        timm.layers.ScaledStdConv2dSame(3, 4, 3, 2),
    ],
    ids=lambda layer: f"{type(layer).__name__}-{layer.padding_mode}-{layer.padding}",
)
def test_paddings_and_standardized_weights_are_checked(kind):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(3, 3, 1), kind, nn.Conv2d(kind.out_channels, 2, 1)), torch.randn(2, 3, 7, 8)
    quantize(net, instantiate(family_section("learned_clipping", 4, ())))
    calibrate_activations(net, lambda: net(x))
    found = check_integers(net, lambda: net(x).square().mean())
    assert found["layers"] == 1 and found["largest_difference"] < 1e-5
    pad = net[1].pad
    if pad is not None:  # what the check does with a padding matters
        net[1].pad = lambda x: pad(x).flip(-1)
        net[1].forward, honest = lambda x: net[1]._product(*net[1]._quantized(x), net[1].bias), pad
        product = net[1]._product
        net[1]._product = lambda *arguments: _with_pad(net[1], honest, product, arguments)
        with pytest.raises(RunError, match="layer 1, .* differ from the simulation"):
            check_integers(net, lambda: net(x).square().mean())


def _with_pad(layer, pad, product, arguments):
    other, layer.pad = layer.pad, pad
    try:
        return product(*arguments)
    finally:
        layer.pad = other


def test_products_that_float32_cannot_resolve_are_no_faults():
    """Sums that cancel to exactly zero, and a product far smaller than the bias beside it."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.layer, self.last = nn.Linear(5, 5), nn.Linear(5, 4), nn.Linear(4, 1)

        def forward(self, x):
            out = self.layer(x * self.size)
            # of the same rows: no gradient for the weight
            return (out[:4] * self.sizes - out[4:] * self.sizes).sum()

    torch.manual_seed(0)
    net, rows = Net(), torch.randn(4, 5)
    net.size, net.sizes, x = 1e-5, torch.rand(4) * 1e3, torch.cat([rows, rows])
    quantize(net, instantiate(family_section("learned_clipping", 4, ())))
    calibrate_activations(net, lambda: net(x))
    net.size = 1e-5 * 3.1
    found = check_integers(net, lambda: net(x))
    assert found["layers"] == 1 and found["largest_difference"] < 1e-5


def test_nothing_to_check_is_said():
    with pytest.raises(RunError, match="no layer"):
        check_integers(nn.Linear(3, 2), lambda: torch.zeros((), requires_grad=True) * 1)


def test_the_quantizers_named_in_the_refusal_are_those_that_can_be_checked():
    assert set(NAMES) <= options("quantizer").keys()
