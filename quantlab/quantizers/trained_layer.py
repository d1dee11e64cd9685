"""Conv2d and Linear layers that train a latent weight through a quantizer, put into a network by name.

The layer keeps `weight` and `bias` under their names, so full-precision weights load as they are; what is added are
`weight_quantizer` and `activation_quantizer`.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.quantizers.fixed_point import FixedPointActivation, FixedPointWeight
from quantlab.quantizers.wrap import LayerBits, setattr_child


class TrainedQuantizedLayer(nn.Module):
    """A Conv2d or Linear whose input and latent weight pass quantizers; None: that one stays in full precision."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, weight_quantizer: nn.Module | None, activation_quantizer: nn.Module | None):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.weight_quantizer, self.activation_quantizer = weight_quantizer, activation_quantizer
        self.is_conv = isinstance(layer, nn.Conv2d)
        if self.is_conv:
            if layer.padding_mode != "zeros":
                raise ValueError(f"only zero padding can be quantized; got padding_mode={layer.padding_mode}")
            self.conv = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.activation_quantizer is not None:
            x = self.activation_quantizer(x)
        weight = self.weight if self.weight_quantizer is None else self.weight_quantizer(self.weight)
        return F.conv2d(x, weight, self.bias, **self.conv) if self.is_conv else F.linear(x, weight, self.bias)


class FixedPointPolicy:
    """The `quantizer` section as decisions: which layer gets how many bits, and its quantizers.

    Bits of a layer: those of the first rule of `policy` whose pattern is found in its name; else `first_layer` for the network's
    first Conv2d or Linear and `last_layer` for its last; else the section's.
    """

    def __init__(self, section):
        self.section = section
        self.rules = [(re.compile(rule.modules), rule) for rule in section.policy]

    def bits(self, name: str, is_first: bool, is_last: bool) -> LayerBits:
        section = self.section
        for pattern, rule in self.rules:
            if pattern.search(name):
                return LayerBits(rule.weight_bits, rule.activation_bits)
        if is_first or is_last:
            end = section.first_layer if is_first else section.last_layer
            return LayerBits(end.weight_bits, end.activation_bits)
        return LayerBits(section.weight.bits, section.activation.bits)

    def weight(self, bits: int, learn_scale: bool) -> nn.Module | None:
        return None if bits == 32 else FixedPointWeight(bits, learn_scale)

    def activation(self, bits: int) -> nn.Module | None:
        return None if bits == 32 else FixedPointActivation(bits)


def wrap_for_training(network: nn.Module, policy: FixedPointPolicy, learn_weight_scale: bool) -> None:
    """Replace the Conv2d and Linear layers of `network` that `policy` quantizes, in place; weight scales are calibrated."""
    modules = dict(network.named_modules())
    names = [name for name, module in modules.items() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for name in names:
        bits = policy.bits(name, name == names[0], name == names[-1])
        if bits == LayerBits(32, 32):
            continue
        weight = policy.weight(bits.weight, learn_weight_scale)
        layer = TrainedQuantizedLayer(modules[name], weight, policy.activation(bits.activation)).to(modules[name].weight.device)
        if weight is not None:
            weight.calibrate(layer.weight)
        parent, _, child = name.rpartition(".")
        setattr_child(modules[parent], child, layer)


@torch.no_grad()
def calibrate_activations(network: nn.Module, batch: Tensor) -> None:
    """One forward pass in which every activation quantizer chooses its scale, layer by layer, on already quantized inputs.

    In training mode, as the first training batch in the released code: the running statistics are those of the full-precision
    network and would put inputs of another size before the quantizers (ten times at one bit). They stay untouched.
    """
    quantizers = [module.activation_quantizer for _, module in quantized_layers(network) if module.activation_quantizer is not None]
    chosen = {id(buffer) for quantizer in quantizers for buffer in quantizer.buffers()}
    statistics = [(buffer, buffer.clone()) for buffer in network.buffers() if id(buffer) not in chosen]
    was_training = network.training
    for quantizer in quantizers:
        quantizer.calibrating = True
    network.train()(batch)
    network.train(was_training)
    for quantizer in quantizers:
        quantizer.calibrating = False
    for buffer, kept in statistics:
        buffer.copy_(kept)


def quantized_layers(network: nn.Module) -> Iterator[tuple[str, TrainedQuantizedLayer]]:
    """Name and module of every layer with a quantizer."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, TrainedQuantizedLayer))


def weight_quantized_layers(network: nn.Module) -> dict[str, TrainedQuantizedLayer]:
    """Those whose weight is quantized, by name."""
    return {name: layer for name, layer in quantized_layers(network) if layer.weight_quantizer is not None}
