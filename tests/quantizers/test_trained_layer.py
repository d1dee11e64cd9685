"""Layers that train latent weights: the policy decides which, names stay, 32 bits change nothing."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from quantlab.errors import RequestError
from quantlab.models.resnet_cifar import CifarResNet
from quantlab.quantizers.fixed_point import FixedPointPolicy
from quantlab.quantizers.trained_layer import (
    calibrate_activations, quantized_layers, weight_quantized_layers, wrap_for_training,
)


def policy(weight=2, activation=2, first=(32, 32), last=(32, 32), rules=(), output_scale=False):
    def ends(pair):
        return SimpleNamespace(weight_bits=pair[0], activation_bits=pair[1])
    return FixedPointPolicy(SimpleNamespace(
        weight=SimpleNamespace(bits=weight),
        gradient=SimpleNamespace(bits=32), activation=SimpleNamespace(bits=activation, signed="auto"), output_scale=output_scale, first_layer=ends(first), last_layer=ends(last),
        policy=[SimpleNamespace(modules=pattern, weight_bits=w, activation_bits=a) for pattern, w, a in rules]))


def network():
    torch.manual_seed(0)
    return CifarResNet(1, 10, depth=8, width=4, final_batch_norm=True).eval()


def test_first_and_last_stay_and_rules_count_before_them():
    net = network()
    wrap_for_training(net, policy(first=(8, 32), rules=[("layer2", 3, 4), ("^fc$", 1, 1)]), learn_weight_scale=False)
    bits = {name: (layer.weight_quantizer and layer.weight_quantizer.bits, layer.activation_quantizer and layer.activation_quantizer.bits)
            for name, layer in quantized_layers(net)}
    assert bits == {"conv1": (8, None), "layer1.0.conv1": (2, 2), "layer1.0.conv2": (2, 2), "layer2.0.conv1": (3, 4),
                    "layer2.0.conv2": (3, 4), "layer3.0.conv1": (2, 2), "layer3.0.conv2": (2, 2), "fc": (1, 1)}
    plain = network()
    wrap_for_training(plain, policy(), learn_weight_scale=False)
    assert {"conv1", "fc"}.isdisjoint(name for name, _ in quantized_layers(plain))


def test_32_bits_are_bit_identical_and_weights_keep_their_names():
    net, x = network(), torch.randn(3, 1, 8, 8)
    wanted = net(x)
    wrap_for_training(net, policy(weight=32, activation=32), learn_weight_scale=False)
    assert torch.equal(net(x), wanted)
    wrap_for_training(net, policy(), learn_weight_scale=False)
    assert set(network().state_dict()) <= set(net.state_dict())


@pytest.mark.parametrize("learned", [True, False])
def test_gradients_reach_latent_weights_and_learned_scales(learned):
    net, x = network(), torch.randn(16, 1, 8, 8)
    wrap_for_training(net, policy(), learn_weight_scale=learned)
    calibrate_activations(net, lambda: net(x))
    net.train()(x).square().mean().backward()
    for layer in weight_quantized_layers(net).values():
        assert layer.weight.grad.abs().sum() > 0 and layer.activation_quantizer.scale.grad is not None
        assert (layer.weight_quantizer.scale.grad is not None) == learned


def test_calibration_leaves_running_statistics_and_mode_alone():
    net = network().train()
    before = net.bn1.running_mean.clone()
    wrap_for_training(net, policy(), learn_weight_scale=False)
    calibrate_activations(net, lambda: net(torch.randn(8, 1, 8, 8)))
    assert net.training and torch.equal(net.bn1.running_mean, before)
    assert all(layer.activation_quantizer.scale != 1 for layer in weight_quantized_layers(net).values())


def test_calibration_sees_inputs_as_training_will():
    # At one bit sums of -1 and 1 are far larger than the statistics of the full-precision network allow for
    net = network()
    wrap_for_training(net, policy(1, 1), learn_weight_scale=False)
    calibrate_activations(net, lambda: net(torch.randn(64, 1, 8, 8)))
    seen = {}
    for name, layer in quantized_layers(net):
        layer.activation_quantizer.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output.mean().item()}))
    net.train()(torch.randn(64, 1, 8, 8))
    assert len(seen) == 6 and all(0.02 < share < 0.5 for share in seen.values()), seen      # of inputs that become 1


def test_a_layer_that_is_called_several_times_takes_its_first_call():
    # As a detector's head, which every level of the pyramid shares: finest first
    net, first = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 1, 1)), torch.randn(2, 1, 12, 12)
    wrap_for_training(net, policy(), learn_weight_scale=False)
    calibrate_activations(net, lambda: net(first))
    alone = net[1].activation_quantizer.scale.clone()
    for second in (100 * first[..., :5, :5], first[..., :5, :5] / 100):
        calibrate_activations(net, lambda: (net(first), net(second)))
        assert net[1].activation_quantizer.scale == alone
    calibrate_activations(net, lambda: net(100 * first))
    assert net[1].activation_quantizer.scale > 10 * alone       # the next calibration begins anew


def test_an_output_scale_gives_the_size_back_before_the_bias():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3)
    net, x = nn.Sequential(nn.Conv2d(3, 3, 1), layer, nn.Conv2d(5, 1, 1)), torch.randn(4, 3, 9, 9)
    wrap_for_training(net, policy(4, 4, output_scale=True), learn_weight_scale=False)
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3)[:, :, None, None])
        net[0].bias.zero_()
    calibrate_activations(net, lambda: net(x))
    wanted = layer(x)
    assert (net[1](x) - wanted).abs().mean() < 0.25 * (wanted - layer.bias.view(-1, 1, 1)).abs().mean()
    assert net[1].output_scale.numel() == 1 and net[1].output_scale != 1
    net[1](x).sum().backward()
    assert net[1].output_scale.grad != 0 and net[1].bias.grad is not None


class SamePadding(nn.Conv2d):
    pass


@pytest.mark.parametrize("layer, says", [
    (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "layer 1: got padding_mode=reflect"), (SamePadding(2, 2, 3), "layer 1: got SamePadding"),
])
def test_layers_that_do_more_than_the_product_are_refused(layer, says):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.Conv2d(2, 2, 3))
    with pytest.raises(RequestError, match=says):
        wrap_for_training(net, policy(), learn_weight_scale=False)
    wrap_for_training(net, policy(rules=[("^1$", 32, 32)]), learn_weight_scale=False)       # as the line says
