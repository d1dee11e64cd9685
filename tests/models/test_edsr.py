"""EDSR: shapes, the published numbers of parameters, what is left when the blocks do nothing, its layers under
quantizers.
"""

import pytest
import torch
from policies import policy, quantize

from quantlab.models.edsr import DIV2K_MEAN, EDSR, ResidualBlock
from quantlab.quantizers.calibration import calibrate_activations
from quantlab.quantizers.insert import quantized_layers


def build(scale=2, blocks=2, channels=8, residual_scale=1.0):
    torch.manual_seed(0)
    return EDSR(scale, blocks, channels, residual_scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shapes_and_gradients(scale):
    network, low = build(scale), torch.rand(2, 3, 5, 7)
    assert network(low).shape == (2, 3, 5 * scale, 7 * scale)
    network.training_loss({"low": low, "high": torch.rand(2, 3, 5 * scale, 7 * scale)}).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(
    "scale, blocks, channels, millions",
    [(2, 16, 64, 1.370), (4, 16, 64, 1.518), (2, 32, 256, 40.730), (4, 32, 256, 43.090)],
)
def test_it_has_the_size_of_the_authors_networks(scale, blocks, channels, millions):
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in EDSR(scale, blocks, channels, 1.0).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.0005)


def test_a_block_scales_its_residual():
    block, x = ResidualBlock(4, 0.1), torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(block(x) - x, 0.1 * block.conv2(block.conv1(x).relu()))


@torch.no_grad()
def test_without_a_body_it_is_head_upsampler_and_tail():
    network, low = build(), torch.rand(1, 3, 6, 6)
    network.conv_after_blocks.weight.zero_(), network.conv_after_blocks.bias.zero_()
    mean = torch.tensor(DIV2K_MEAN).view(3, 1, 1)
    torch.testing.assert_close(network(low), network.tail(network.upsampler(network.head(low - mean))) + mean)
    network.tail.weight.zero_(), network.tail.bias.zero_()
    assert network(low).allclose(mean)
    assert network.training_loss({"low": low, "high": mean.expand(1, 3, 12, 12) + 0.25}) == pytest.approx(0.25)


def test_all_layers_but_the_first_and_the_last_are_quantized_and_negative_inputs_get_negative_levels():
    own = policy("fixed_point", 4, first=(32, 32), last=(32, 32), output_scale=True)
    network = build()
    quantize(network, own)
    calibrate_activations(network, lambda: network(torch.rand(2, 3, 8, 8)))
    signed = {name: layer.activation_quantizer.is_signed for name, layer in quantized_layers(network)}
    assert signed == {
        "blocks.0.conv1": True,
        "blocks.0.conv2": False,
        "blocks.1.conv1": True,
        "blocks.1.conv2": False,
        "conv_after_blocks": True,
        "upsampler.0": True,
    }
