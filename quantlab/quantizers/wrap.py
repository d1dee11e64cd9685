"""Put quantizers into a network: which modules get what, by regular expressions on their names.

Conv2d, Linear and attention products are replaced one by one, in place; the network's own code is untouched, so any diffusers
or timm model works.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.quantizers.activation import ActivationQuantizer, GroupPointer
from quantlab.quantizers.attention import QuantizedAttention, is_attention
from quantlab.quantizers.weight import FloatWeight, QuantizedWeight


@dataclass(frozen=True)
class LayerBits:
    weight: int
    activation: int


class UniformAffinePolicy:
    """The `quantizer` section of a config as decisions: what bits a module of a given name gets, and its quantizers."""

    def __init__(self, section):
        self.section = section
        self.exceptions = [(re.compile(rule.modules), rule) for rule in section.policy]

    def bits(self, name: str) -> LayerBits:
        """Bits of the module called `name`: those of the first exception that matches, else the section's."""
        weight, activation = self.section.weight.bits, self.section.activation.bits
        for pattern, rule in self.exceptions:
            if pattern.search(name):
                # An exception relaxes: it never brings a layer into a run that leaves all of its kind in full precision.
                weight = weight if rule.weight_bits is None or weight == 32 else rule.weight_bits
                activation = activation if rule.activation_bits is None or activation == 32 else rule.activation_bits
                break
        return LayerBits(weight, activation)

    def weight(self, weight: Tensor, bits: int) -> nn.Module:
        if bits == 32:
            return FloatWeight(weight)
        return QuantizedWeight(weight.shape, bits, self.section.weight.symmetric, self.section.weight.granularity)

    def activation(self, bits: int, pointer: GroupPointer, unsigned: bool = False) -> nn.Module:
        if bits == 32:
            return nn.Identity()
        section = self.section.activation
        return ActivationQuantizer(bits, section.symmetric and not unsigned, pointer, section.scales == "shared")


class QuantizedLayer(nn.Module):
    """A Conv2d or Linear whose input and weight are quantized; bias and output stay in full precision.

    With `split` = c the input channels [:c] and [c:] have quantizers of their own, and so have the weight's (Q-Diffusion's
    shortcut split, for the concatenation of two tensors with different ranges).
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, policy: UniformAffinePolicy, bits: LayerBits,
                 pointer: GroupPointer, split: int | None):
        super().__init__()
        self.split = split
        channels = layer.weight.shape[1]
        self.parts = [channels] if split is None else [split, channels - split]
        self.weights = nn.ModuleList(policy.weight(part, bits.weight) for part in self.split_weight(layer.weight))
        self.activations = nn.ModuleList(policy.activation(bits.activation, pointer) for _ in self.parts)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.is_conv = isinstance(layer, nn.Conv2d)
        if self.is_conv:
            if layer.padding_mode != "zeros":
                raise ValueError(f"only zero padding can be quantized; got padding_mode={layer.padding_mode}")
            self.conv = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups)

    def split_weight(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The weight's pieces along its input channels, one per quantizer."""
        return weight.split(self.parts, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.split is None:
            x, weight = self.activations[0](x), self.weights[0]()
        else:
            dim = 1 if self.is_conv else -1
            pieces = x.split(self.parts, dim=dim)
            x = torch.cat([quantizer(piece) for quantizer, piece in zip(self.activations, pieces)], dim=dim)
            weight = torch.cat([quantized() for quantized in self.weights], dim=1)
        return F.conv2d(x, weight, self.bias, **self.conv) if self.is_conv else F.linear(x, weight, self.bias)


def wrap(network: nn.Module, policy: UniformAffinePolicy, pointer: GroupPointer,
         splits: Mapping[str, int] | None = None) -> dict[str, nn.Module]:
    """Replace every Conv2d, Linear and attention product of `network`, in place; codes and scales are still blank.

    splits: input channels at which a layer's input is the concatenation of two tensors, by module name.
    Returns the original layers by name: `calibrate_weights` needs their float weights.
    """
    originals = {}
    device = next(network.parameters()).device
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            split = (splits or {}).get(name) if policy.section.split_shortcuts else None
            network.set_submodule(name, QuantizedLayer(module, policy, policy.bits(name), pointer, split))
            originals[name] = module
        elif is_attention(module) and policy.section.attention:
            operands = {}
            for operand in ("query", "key", "value", "softmax"):
                bits = policy.bits(f"{name}.processor.{operand}").activation
                if operand == "softmax" and bits != 32:
                    bits = policy.section.softmax_bits
                operands[operand] = policy.activation(bits, pointer, unsigned=operand == "softmax")
            module.set_processor(QuantizedAttention(**operands))
    network.to(device)      # the quantizers were made on the CPU
    return originals


def _of_kind(network: nn.Module, kind: type) -> Iterator:
    return (module for module in network.modules() if isinstance(module, kind))


def quantized_weights(network: nn.Module) -> list[QuantizedWeight]:
    return list(_of_kind(network, QuantizedWeight))


def activation_quantizers(network: nn.Module) -> list[ActivationQuantizer]:
    return list(_of_kind(network, ActivationQuantizer))


def _weight_pieces(network: nn.Module, originals: Mapping[str, nn.Module]) -> Iterator[tuple[QuantizedWeight, Tensor]]:
    for name, original in originals.items():
        layer = network.get_submodule(name)
        for quantized, piece in zip(layer.weights, layer.split_weight(original.weight.detach())):
            if isinstance(quantized, QuantizedWeight):
                yield quantized, piece


@torch.no_grad()
def calibrate_weights(network: nn.Module, originals: Mapping[str, nn.Module], section) -> None:
    """Choose every weight's scale by `section.weight.scale_search` and round to nearest."""
    for quantized, piece in _weight_pieces(network, originals):
        quantized.calibrate(piece, section.weight.scale_search, section.p)


@torch.no_grad()
def learn_rounding(network: nn.Module, originals: Mapping[str, nn.Module], section) -> None:
    """Give every quantized weight its rounding variables, by `section.weight.rounding` (adaround or straight_through)."""
    for quantized, piece in _weight_pieces(network, originals):
        quantized.learn_rounding(piece, section.zeta, section.gamma, section.weight.rounding == "straight_through")


@contextmanager
def held_weights(weights: Iterable[QuantizedWeight]) -> Iterator[None]:
    """Inside the block the learned weights are fixed tensors; at its end their gradients reach the rounding variables.

    For an iteration that runs the network many times between two updates: the rounding is then computed and
    differentiated once instead of every time.
    """
    weights = list(weights)
    for weight in weights:
        weight.hold()
    yield
    for weight in weights:
        weight.release()


def harden(network: nn.Module) -> None:
    """Fix every learned rounding to up or down."""
    for quantized in quantized_weights(network):
        quantized.harden()
