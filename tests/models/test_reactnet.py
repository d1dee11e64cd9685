"""ReActNet-18: shapes, its shortcuts, RPReLU, quantized layers."""

from types import SimpleNamespace

import pytest
import torch
from policies import policy, quantize

from quantlab.models.reactnet import Block, RPReLU, build_reactnet
from quantlab.quantizers.calibration import calibrate_activations
from quantlab.quantizers.insert import quantized_layers


def build(small_images=True, classes=10):
    torch.manual_seed(0)
    return build_reactnet(SimpleNamespace(small_images=small_images), SimpleNamespace(channels=3, classes=classes))


@pytest.mark.parametrize(
    "small_images, size, resolution", [(True, 8, 8), (True, 28, 28), (True, 33, 33), (False, 64, 16)]
)
def test_shapes(small_images, size, resolution):
    network, seen = build(small_images), []
    network.layer1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    images = torch.randn(2, 3, size, size)
    assert network(images).shape == (2, 10) and seen == [(2, 64, resolution, resolution)]
    network.training_loss({"image": images, "label": torch.tensor([0, 1])}).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_it_has_the_size_of_a_resnet18_and_a_shortcut_per_convolution():
    network = build(small_images=False, classes=1000)
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    assert len(blocks) == 16 and sum(isinstance(block.downsample, torch.nn.Sequential) for block in blocks) == 3
    # torchvision's resnet18 has 11,689,512; RPReLU adds three numbers per channel of the sixteen convolutions.
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512 + 3 * 4 * (64 + 128 + 256 + 512)


def test_a_block_without_its_convolution_is_the_shortcut():
    block = Block(4, 4, 1).eval()
    with torch.no_grad():
        block.conv.weight.zero_()
    x = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_rprelu():
    activation = RPReLU(2)
    with torch.no_grad():
        activation.shift_before.fill_(-1.0), activation.shift_after.fill_(0.5)
    x = torch.tensor([[0.0, 3.0]]).reshape(1, 2, 1, 1)
    assert activation(x).flatten().tolist() == [-0.25 + 0.5, 2.0 + 0.5]


def test_the_policy_of_the_yaml_leaves_the_shortcuts_in_full_precision():
    network = build()
    full = (32, 32)
    quantize(network, policy("reactnet", 1, first=full, last=full, rules=[("downsample", *full)]))
    calibrate_activations(network, lambda: network(torch.randn(2, 3, 8, 8)))
    names = [name for name, _ in quantized_layers(network)]
    assert len(names) == 16 and all(name.endswith(".conv") for name in names)
    network.training_loss({"image": torch.randn(2, 3, 8, 8), "label": torch.tensor([0, 1])}).backward()
    assert all(layer.weight.grad is not None for _, layer in quantized_layers(network))
