"""Weights that a network takes past their layer are quantized as in the layer, whichever way they are asked for;
others are named.
"""

import copy

import pytest
import timm
import torch
from policies import policy, quantize
from torch import nn
from torch.nn import functional as F

from quantlab.config import instantiate
from quantlab.families import section
from quantlab.quantizers.calibration import calibrate_activations
from quantlab.quantizers.gradient import calibrate_gradients
from quantlab.quantizers.insert import quantized_layers
from quantlab.quantizers.integer_check import check_integers


class Around(nn.Module):
    """Four layers, the two in the middle made by `product(layer, x)`."""

    def __init__(self, product):
        super().__init__()
        self.first, self.linear, self.conv, self.last = (
            nn.Conv2d(1, 4, 1),
            nn.Linear(6, 6),
            nn.Conv2d(4, 4, 3, 2, 1),
            nn.Linear(4 * 3 * 3, 2),
        )
        self.other_bias = nn.Parameter(torch.randn(6))
        self.product = product

    def forward(self, x):
        return self.last(self.product(self, F.relu(self.first(x))).flatten(1))


def called(net, x):
    net.linear.bias = net.other_bias
    return net.conv(net.linear(x))


def past_the_layers(net, x):
    x = F.linear(x, bias=net.other_bias, weight=net.linear.weight)
    return F.conv2d(x, net.conv.weight, net.conv.bias, 2, 1)


def in_parts(net, x):
    x = F.linear(x, torch.cat([net.linear.weight[:3], net.linear.weight[3:]]), net.other_bias)
    return F.conv2d(x, net.conv.weight, net.conv.bias, stride=(2, 2), padding=(1, 1))


def other_stride(net, x):
    return F.conv2d(F.linear(x, net.linear.weight, net.other_bias), net.conv.weight, stride=2)[..., [0, 0, 1], :][
        ..., [0, 0, 1]
    ]


X = torch.linspace(-1, 1, 2 * 36).view(2, 1, 6, 6)


def wrapped(product, weight_bits=4):
    torch.manual_seed(0)
    net = Around(product)
    full = (32, 32)
    gradient = {"bits": 4, "alpha": 0.05}
    quantize(net, policy("learned_clipping", weight_bits, 4, gradient=gradient, first=full, last=full))
    unused = calibrate_activations(net, lambda: net(X))
    calibrate_gradients(net, lambda: net(X).square().mean())
    return net, unused


@pytest.mark.parametrize("weight_bits", [4, 32])
def test_taking_a_weight_is_calling_its_layer(weight_bits):
    (direct, unused), (plain, none) = wrapped(past_the_layers, weight_bits), wrapped(called, weight_bits)
    assert unused == none == [] and torch.equal(direct(X), plain(X))
    assert not torch.equal(direct(X), Around(past_the_layers)(X)) and "forward" in vars(direct)
    for net in (direct, plain):
        torch.manual_seed(3)  # gradients are rounded at random
        net(X).square().mean().backward()
    for name, layer in quantized_layers(direct):
        assert torch.equal(layer.weight.grad, plain.get_submodule(name).weight.grad)
        assert layer.activation_quantizer.clipping_value.grad != 0


def test_a_network_that_takes_no_weight_runs_as_before():
    net, _ = wrapped(called)
    assert net.forward == net.plain_forward


def test_names_of_weights_stay_and_a_copy_is_on_its_own():
    net, _ = wrapped(past_the_layers)
    assert Around(called).state_dict().keys() <= net.state_dict().keys()
    other, before = copy.deepcopy(net), net(X)
    assert torch.equal(other(X), before)
    with torch.no_grad():
        net.linear.weight.zero_()
        assert torch.equal(other(X), before) and not torch.equal(net(X), before)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(X), net(X))


@pytest.mark.parametrize("product, names", [(in_parts, ["linear"]), (other_stride, ["conv"])])
def test_what_is_no_product_of_the_layers_is_named_and_not_checked(product, names):
    net, unused = wrapped(product)
    assert unused == names
    found = check_integers(net, lambda: net(X).square().mean())
    assert found["layers"] == 1 and found["not_checked"] == dict.fromkeys(names, "never called")


def test_the_integer_check_sees_weights_that_are_taken():
    net, _ = wrapped(past_the_layers)
    found = check_integers(net, lambda: net(X).square().mean())
    assert found["layers"] == 2 and found["products"] == 6 and found["not_checked"] == {}
    assert 0 < found["largest_difference"] < 1e-5


def test_attention_of_torch_is_named():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.Sequential(nn.Linear(8, 8), encoder, nn.Linear(8, 2))
    quantize(net, instantiate(section("learned_clipping", 4, ())))
    assert calibrate_activations(net, lambda: net(torch.randn(2, 3, 8))) == ["1.self_attn.out_proj"]


@pytest.mark.slow
def test_a_compiler_follows():
    net = timm.create_model("beit_base_patch16_224", depth=1, embed_dim=24, num_heads=2, img_size=32, num_classes=3)
    x = torch.randn(2, 3, 32, 32)
    quantize(net, instantiate(section("learned_clipping", 32, ())))
    assert calibrate_activations(net, lambda: net(x)) == [] and net.uses_weights_directly
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(x), net(x))
