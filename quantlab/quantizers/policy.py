"""A config's `quantizer` section as decisions: which layer gets how many bits, by regular expressions on names, and
which quantizers.

Of a quantizer's file only its policy reads the section; the quantizers themselves take plain arguments.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from quantlab.quantizers.base import Quantizer, WeightQuantizer
from quantlab.quantizers.gradient import GradientQuantizer
from quantlab.quantizers.gradient_interval import DSGC, Fixed, Interval, LargeGradient, Piecewise

if TYPE_CHECKING:
    from quantlab.config.quantizers.training import Gradient, TrainedQuantizer
    from quantlab.config.quantizers.uniform_affine import UniformAffine

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class LayerBits:
    """Of one layer; 32: in full precision."""

    weight: int
    activation: int


@dataclass(frozen=True)
class Rule:
    """An exception: the bits of every layer in whose name `pattern` is found."""

    pattern: re.Pattern[str]
    bits: LayerBits


class Policy:
    """Bits of a layer: those of the first rule, the section's or a preset's, whose pattern is found in its name; else
    `first` for the network's first Conv2d or Linear and `last` for its last, in the order of its modules; else `whole`.
    (In all of timm's families but FastViT, whose stem has two branches, and VOLO, which has two heads, these are the
    first and the last that are called.) 32 bits in `whole` switch weights or activations off altogether: no exception
    quantizes them.

    A quantizer's file gives `weight`, `activation` and what differs below. learn_weight_scale: whether what moves the
    transition points of weights is learned.
    """

    trains = True  # latent weights are trained; otherwise weights are constants
    output_scale = False  # a learned factor on every layer's output
    attention = False  # the operands of its products are quantized too
    split_shortcuts = False  # the halves of a concatenated input have quantizers of their own

    def __init__(self, section: "TrainedQuantizer | UniformAffine", learn_weight_scale: bool = True):
        self.learn_weight_scale = learn_weight_scale
        self.whole = LayerBits(section.weight.bits, section.activation.bits)
        self.first = LayerBits(section.first_layer.weight_bits, section.first_layer.activation_bits)
        self.last = LayerBits(section.last_layer.weight_bits, section.last_layer.activation_bits)
        self.rules = [
            Rule(re.compile(rule.modules), LayerBits(rule.weight_bits, rule.activation_bits)) for rule in section.policy
        ]
        self.preset_rules: list[Rule] = []  # of a preset: after the section's own
        self._gradient = section.gradient

    def suit(self, network: nn.Module) -> None:
        """Take the exceptions that a preset makes for this network."""

    def bits(self, name: str, is_first: bool = False, is_last: bool = False) -> LayerBits:
        """Bits of the module called `name`."""
        rules = (*self.rules, *self.preset_rules)
        own = next((rule.bits for rule in rules if rule.pattern.search(name)), None)
        if own is None and (is_first or is_last):
            own = self.first if is_first else self.last
        if own is None:
            return self.whole
        weight, activation = self.whole.weight, self.whole.activation
        return LayerBits(weight if weight == 32 else own.weight, activation if activation == 32 else own.activation)

    def weight(self, shape: torch.Size, bits: int) -> WeightQuantizer:
        """Quantizer of a weight of that shape."""
        raise NotImplementedError  # every quantizer's own

    def activation(self, layer: Layer, bits: int) -> Quantizer:
        """Quantizer of the layer's input."""
        raise NotImplementedError  # every quantizer's own

    def operand(self, operand: str, bits: int) -> Quantizer:
        """Quantizer of one operand of attention's products: query, key, value, softmax."""
        raise NotImplementedError  # of those with `attention`

    def operand_bits(self, attention: str, operand: str) -> int:
        """Bits of one operand of the attention of that name."""
        return self.bits(f"{attention}.processor.{operand}").activation

    def gradient(self, layer: Layer) -> GradientQuantizer | None:
        """Quantizer of the gradient of the layer's output, of every layer whose weight or input is quantized."""
        section = self._gradient
        if section.bits == 32:
            return None
        per_channel = section.granularity == "channel" and is_depthwise(layer)
        return GradientQuantizer(section.bits, interval(section), per_channel)


def interval(section: "Gradient") -> Interval:
    """Of the config's `quantizer.gradient` section."""
    if section.interval == "large_gradient":
        return LargeGradient(section.alpha, section.beta, section.gamma_min, section.gamma_max, section.init)
    if section.interval == "dsgc":
        return DSGC(section.period, section.alpha)
    if section.interval == "piecewise":
        return Piecewise(section.shift, section.alpha)
    return Fixed(section.gamma if section.interval == "fixed" else 1.0, section.alpha)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each channel of the output comes from one channel of the input that no other sees: scales of channels
    then factor out of both products of the backward pass."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1
