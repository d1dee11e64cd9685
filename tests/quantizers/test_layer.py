"""Layers that train latent weights: the policy decides which, names stay, 32 bits change nothing."""

import copy
import re
import subprocess
from collections import OrderedDict

import policies
import pytest
import timm
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from policies import quantize
from torch import nn

from quantlab.config import to_plain, validate
from quantlab.errors import RequestError
from quantlab.models.resnet_cifar import CifarResNet
from quantlab.quantizers.calibration import calibrate_activations
from quantlab.quantizers.insert import quantized_layers, standardized_layers, weight_quantized_layers
from quantlab.quantizers.layer import QuantizedLayer
from quantlab.quantizers.policy import LayerBits


def policy(weight=2, activation=2, first=(32, 32), last=(32, 32), learn_weight_scale=False, **changes):
    return policies.policy(
        "fixed_point", weight, activation, first=first, last=last, learn_weight_scale=learn_weight_scale, **changes
    )


def network():
    torch.manual_seed(0)
    return CifarResNet(1, 10, depth=8, width=4, final_batch_norm=True).eval()


def test_first_and_last_stay_and_rules_count_before_them():
    net = network()
    quantize(net, policy(first=(8, 32), rules=[("layer2", 3, 4), ("^fc$", 1, 1)]))
    bits = {
        name: (
            layer.weight_quantizer and layer.weight_quantizer.bits,
            layer.activation_quantizer and layer.activation_quantizer.bits,
        )
        for name, layer in quantized_layers(net)
    }
    assert bits == {
        "conv1": (8, None),
        "layer1.0.conv1": (2, 2),
        "layer1.0.conv2": (2, 2),
        "layer2.0.conv1": (3, 4),
        "layer2.0.conv2": (3, 4),
        "layer3.0.conv1": (2, 2),
        "layer3.0.conv2": (2, 2),
        "fc": (1, 1),
    }
    plain = network()
    quantize(plain, policy())
    assert {"conv1", "fc"}.isdisjoint(name for name, _ in quantized_layers(plain))


def test_32_bits_are_bit_identical_and_weights_keep_their_names():
    net, x = network(), torch.randn(3, 1, 8, 8)
    wanted = net(x)
    quantize(net, policy(weight=32, activation=32))
    assert torch.equal(net(x), wanted)
    quantize(net, policy())
    assert set(network().state_dict()) <= set(net.state_dict())


@pytest.mark.parametrize("learned", [True, False])
def test_gradients_reach_latent_weights_and_learned_scales(learned):
    net, x = network(), torch.randn(16, 1, 8, 8)
    quantize(net, policy(learn_weight_scale=learned))
    calibrate_activations(net, lambda: net(x))
    net.train()(x).square().mean().backward()
    for layer in weight_quantized_layers(net).values():
        assert layer.weight.grad.abs().sum() > 0 and layer.activation_quantizer.scale.grad is not None
        assert (layer.weight_quantizer.scale.grad is not None) == learned


def test_calibration_leaves_running_statistics_and_mode_alone():
    net = network().train()
    before = net.bn1.running_mean.clone()
    quantize(net, policy())
    calibrate_activations(net, lambda: net(torch.randn(8, 1, 8, 8)))
    assert net.training and torch.equal(net.bn1.running_mean, before)
    assert all(layer.activation_quantizer.scale != 1 for layer in weight_quantized_layers(net).values())


def test_calibration_sees_inputs_as_training_will():
    # At one bit sums of -1 and 1 are far larger than the statistics of the full-precision network allow for
    net = network()
    quantize(net, policy(1, 1))
    calibrate_activations(net, lambda: net(torch.randn(64, 1, 8, 8)))
    seen = {}
    for name, layer in quantized_layers(net):
        layer.activation_quantizer.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.mean().item()})
        )
    net.train()(torch.randn(64, 1, 8, 8))
    assert len(seen) == 6 and all(0.02 < share < 0.5 for share in seen.values()), seen  # of inputs that become 1


def test_a_layer_that_is_called_several_times_takes_its_first_call():
    # As a detector's head, which every level of the pyramid shares: finest first
    net, first = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 1, 1)), torch.randn(2, 1, 12, 12)
    quantize(net, policy())
    calibrate_activations(net, lambda: net(first))
    alone = net[1].activation_quantizer.scale.clone()
    for second in (100 * first[..., :5, :5], first[..., :5, :5] / 100):
        calibrate_activations(net, lambda: (net(first), net(second)))
        assert net[1].activation_quantizer.scale == alone
    calibrate_activations(net, lambda: net(100 * first))
    assert net[1].activation_quantizer.scale > 10 * alone  # the next calibration begins anew


def test_an_output_scale_gives_the_size_back_before_the_bias():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3)
    net, x = nn.Sequential(nn.Conv2d(3, 3, 1), layer, nn.Conv2d(5, 1, 1)), torch.randn(4, 3, 9, 9)
    quantize(net, policy(4, 4, output_scale=True))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3)[:, :, None, None])
        net[0].bias.zero_()
    calibrate_activations(net, lambda: net(x))
    wanted = layer(x)
    assert (net[1](x) - wanted).abs().mean() < 0.25 * (wanted - layer.bias.view(-1, 1, 1)).abs().mean()
    assert net[1].output_scale.numel() == 1 and net[1].output_scale != 1
    net[1](x).sum().backward()
    assert net[1].output_scale.grad != 0 and net[1].bias.grad is not None


X = torch.linspace(-1, 1, 200).view(2, 1, 10, 10)


class Halved(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) / 2


def stack(*layers):
    """The layers between a first and a last one, which `policy` leaves in full precision."""
    return nn.Sequential(nn.Conv2d(1, 2, 3), *layers, nn.Conv2d(2, 1, 1))


def refusal(net, rules=()):
    with pytest.raises(RequestError) as caught:
        quantize(net, policy(rules=rules))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pasted(line):
    """The policy that the line says to type, as a shell and Hydra read it."""
    word = re.search(r"type (.*), or choose", line)[1]
    typed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, text=True, check=True).stdout
    with initialize_config_module("quantlab.conf", version_base="1.3"):
        plain = OmegaConf.to_container(compose("config", ["method=qat", "quantizer=fixed_point", typed]), resolve=True)
    return [
        (rule["modules"], rule["weight_bits"], rule["activation_bits"])
        for rule in to_plain(validate(plain))["quantizer"]["policy"]
    ]


def test_layers_that_compute_more_are_refused_all_at_once_and_the_line_can_be_pasted():
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1))
    inner = nn.Sequential(OrderedDict([("a-b", Halved(2, 2, 1)), ("plain", nn.Conv2d(2, 2, 1))]))
    net = stack(Halved(2, 2, 1), inner, normed)
    rules = [(r'^[1-9]\.plain"?$', 3, 4)]
    line = refusal(net, rules)
    assert (
        "3 of 4 layers cannot be quantized: 1, 2.a-b (Halved computes more than a product); 3 (its weight is no"
        " parameter of its own)" in line
    )
    found = pasted(line)
    assert found[1:] == rules
    quantize(net, policy(rules=found))
    assert {name: layer.weight_quantizer.bits for name, layer in quantized_layers(net)} == {"2.plain": 3}


@pytest.mark.parametrize(
    "layers, rules",
    [
        # no weight is left to quantize
        ((Halved(2, 2, 1),), ()),
        ((Halved(2, 2, 1), nn.Conv2d(2, 2, 1)), [("^2$", 32, 4)]),
    ],
)
def test_a_policy_that_would_leave_nothing_is_not_advised(layers, rules):
    line = refusal(stack(*layers), rules)
    assert "nothing is left to quantize: choose another model" in line and "type" not in line


def test_a_subclass_that_adds_nothing_and_layers_in_full_precision_are_not_refused():
    class Named(nn.Conv2d):
        pass

    net = stack(Named(2, 2, 1), nn.modules.linear.NonDynamicallyQuantizableLinear(3, 3), Halved(2, 2, 1))
    quantize(net, policy(rules=[("^3$", 32, 32)]))
    assert [name for name, _ in quantized_layers(net)] == ["1", "2"]


def test_containers_with_names_and_layers_with_several_names():
    shared = nn.Conv2d(2, 2, 1)
    mixed = timm.layers.MixedConv2d(2, 2, [3, 5], padding="same", stride=2)  # a ModuleDict
    net = stack(nn.Sequential(OrderedDict(conv=shared, mixed=mixed)), shared)
    quantize(net, policy())
    assert net[1].conv is net[2] and net[2].weight is shared.weight and net[2].in_channels == 2
    assert [name for name, _ in quantized_layers(net)] == [
        "1.conv",
        "1.mixed.0",
        "1.mixed.1",
    ] and calibrate_activations(net, lambda: net(X)) == []


KINDS = {
    "reflect": nn.Conv2d(3, 6, 3, padding=(1, 2), padding_mode="reflect"),
    "circular": nn.Conv2d(3, 6, 3, 2, 1, padding_mode="circular"),
    "replicate": nn.Conv2d(3, 6, (3, 5), padding=(2, 1), padding_mode="replicate", groups=3),
    "valid": nn.Conv2d(3, 6, 3, padding="valid"),
    "same": nn.Conv2d(3, 6, 3, padding="same"),
    "same, even": nn.Conv2d(3, 6, (4, 3), padding="same", dilation=(1, 2)),
    "same, even, reflect": nn.Conv2d(3, 6, 4, padding="same", padding_mode="reflect"),
    "Conv2dSame": timm.layers.Conv2dSame(3, 6, 3, 2),
    "depthwise": timm.layers.Conv2dSame(3, 6, 4, 3, groups=3),
    "StdConv2d": timm.layers.StdConv2d(3, 6, 3, 2, bias=True),
    "StdConv2dSame": timm.layers.StdConv2dSame(3, 6, 3, 2),
    "ScaledStdConv2d": timm.layers.ScaledStdConv2d(3, 6, 3, gamma=1.7, gain_init=0.5),
    "ScaledStdConv2dSame": timm.layers.ScaledStdConv2dSame(3, 6, 3, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_quantized_as_the_function_it_computes(kind):
    torch.manual_seed(0)
    layer, x = KINDS[kind], torch.randn(2, 3, 9, 10)
    assert torch.equal(QuantizedLayer(layer)(x), layer(x))
    net = nn.Sequential(nn.Conv2d(3, 3, 1), copy.deepcopy(layer), nn.Conv2d(6, 1, 1))
    names, wanted = set(net.state_dict()), net(x)
    quantize(net, policy(8, 8, output_scale=True))
    assert names <= set(net.state_dict()) and calibrate_activations(net, lambda: net(x)) == []
    assert (net(x) - wanted).norm() < 0.03 * wanted.norm()
    gain = getattr(layer, "gain", None)
    net(x).square().sum().backward()
    assert net[1].weight.grad.abs().sum() > 0 and (gain is None or net[1].gain.grad.abs().sum() > 0)


def test_transitions_of_a_standardized_weight_are_those_of_what_is_quantized():
    """Doubled, every weight of it stays where it is; its mean shifted by as much for a whole channel, too."""
    net = nn.Sequential(nn.Conv2d(3, 3, 1), timm.layers.ScaledStdConv2d(3, 4, 3), nn.Conv2d(4, 1, 1))
    quantize(net, policy(4))
    layer = net[1]
    codes = layer.weight_quantizer.discrete(layer.weight)
    assert torch.equal(codes, (layer.weight_quantizer(layer.weight) * 8).round()) and len(codes.unique()) > 8
    with torch.no_grad():
        layer.weight.mul_(2).add_(torch.arange(4.0).view(4, 1, 1, 1))
    assert (layer.weight_quantizer.discrete(layer.weight) != codes).float().mean() < 0.02
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] += 5
    assert (layer.weight_quantizer.discrete(layer.weight) != codes)[0].any()
    assert standardized_layers(
        nn.Sequential(*net[:1], timm.layers.StdConv2d(3, 4, 3)), {"0": LayerBits(4, 4), "1": LayerBits(4, 4)}
    ) == ["1"]
