"""Put quantizers into a network: which modules get what, by regular expressions on their names.

Conv2d, Linear and attention products are replaced one by one, in place; the network's own code is untouched, so any
diffusers or timm model works.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.errors import RequestError
from quantlab.quantizers.activation import ActivationQuantizer, GroupPointer
from quantlab.quantizers.attention import QuantizedAttention, is_attention
from quantlab.quantizers.layer_kinds import layer_kind
from quantlab.quantizers.refusal import refusal, require_matches, unknown_kinds
from quantlab.quantizers.weight import FloatWeight, QuantizedWeight


@dataclass(frozen=True)
class LayerBits:
    weight: int
    activation: int


OPERANDS = ("query", "key", "value", "softmax")  # of the two products of attention


class UniformAffinePolicy:
    """The `quantizer` section of a config as decisions: what bits a module of a given name gets, and its quantizers.

    Bits of a layer: those of the first rule of `policy` whose pattern is found in its name; else `first_layer` for the
    network's first Conv2d or Linear and `last_layer` for its last; else the section's.
    """

    def __init__(self, section):
        self.section = section
        self.rules = [(re.compile(rule.modules), rule) for rule in section.policy]

    def bits(self, name: str, is_first: bool = False, is_last: bool = False) -> LayerBits:
        """Bits of the module called `name`."""
        section = self.section
        own = next((rule for pattern, rule in self.rules if pattern.search(name)), None)
        if own is None and (is_first or is_last):
            own = section.first_layer if is_first else section.last_layer
        weight, activation = section.weight.bits, section.activation.bits
        if own is None:
            return LayerBits(weight, activation)
        # An exception relaxes: it never brings a layer into a run that leaves all of its kind in full precision.
        return LayerBits(
            weight if weight == 32 else own.weight_bits, activation if activation == 32 else own.activation_bits
        )

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

    With `split` = c the input channels [:c] and [c:] have quantizers of their own, and so have the weight's
    (Q-Diffusion's shortcut split, for the concatenation of two tensors with different ranges).
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        policy: UniformAffinePolicy,
        bits: LayerBits,
        pointer: GroupPointer,
        split: int | None,
    ):
        super().__init__()
        self.split = split
        channels = layer.weight.shape[1]
        self.parts = [channels] if split is None else [split, channels - split]
        self.weights = nn.ModuleList(
            policy.weight(part, bits.weight) for part in self.split_weight(float_weight(layer))
        )
        self.activations = nn.ModuleList(policy.activation(bits.activation, pointer) for _ in self.parts)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        kind = layer_kind(layer)
        self.is_conv, self.conv, self.pad = isinstance(layer, nn.Conv2d), kind.geometry, kind.pad

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
        x = x if self.pad is None else self.pad(x)
        return F.conv2d(x, weight, self.bias, **self.conv) if self.is_conv else F.linear(x, weight, self.bias)


def float_weight(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """What the layer's product takes: its weight, or what that is standardized to. Without a graph."""
    standardize = layer_kind(layer).standardize
    return (layer.weight if standardize is None else standardize(layer.weight)).detach()


def quantizable_layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The layers of `network` that a policy speaks about, by name; the first and the last of them are what it calls
    so.
    """
    return {name: module for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}


def planned_bits(network: nn.Module, policy: UniformAffinePolicy) -> dict[str, LayerBits]:
    """The layers of `network` that `policy` quantizes, by name.

    Raises RequestError for a rule that concerns no layer, and for layers that cannot be quantized, all at once.
    """
    layers = quantizable_layers(network)
    require_matches(
        policy.rules,
        [*layers, *(f"{name}.processor.{operand}" for name in _attentions(network, policy) for operand in OPERANDS)],
    )
    first, last = next(iter(layers), None), next(reversed(layers), None)
    bits = {name: policy.bits(name, name == first, name == last) for name in layers}
    planned = {name: one for name, one in bits.items() if one != LayerBits(32, 32)}
    if refused := unknown_kinds({name: layers[name] for name in planned}):
        raise RequestError(refusal(refused, planned, policy.rules))
    return planned


def _attentions(network: nn.Module, policy: UniformAffinePolicy) -> dict[str, nn.Module]:
    """The attentions of `network` whose products `policy` speaks about, by name."""
    return (
        {name: module for name, module in network.named_modules() if is_attention(module)}
        if policy.section.attention
        else {}
    )


def wrap(
    network: nn.Module, policy: UniformAffinePolicy, pointer: GroupPointer, splits: Mapping[str, int] | None = None
) -> dict[str, nn.Module]:
    """Replace every Conv2d, Linear and attention product of `network` that `policy` quantizes, in place; codes and
    scales are still blank.

    splits: input channels at which a layer's input is the concatenation of two tensors, by module name.
    Returns the original layers by name: `calibrate_weights` needs their float weights. Raises RequestError as
    `planned_bits`.
    """
    originals = {}
    device = next(network.parameters()).device
    modules = dict(network.named_modules())
    attentions = _attentions(network, policy)
    for name, bits in planned_bits(network, policy).items():
        split = (splits or {}).get(name) if policy.section.split_shortcuts else None
        network.set_submodule(name, QuantizedLayer(modules[name], policy, bits, pointer, split))
        originals[name] = modules[name]
    for name, attention in attentions.items():
        attention.set_processor(
            QuantizedAttention(
                **{
                    operand: policy.activation(
                        operand_bits(policy, name, operand), pointer, unsigned=operand == "softmax"
                    )
                    for operand in OPERANDS
                }
            )
        )
    network.to(device)  # the quantizers were made on the CPU
    return originals


def operand_bits(policy: UniformAffinePolicy, attention: str, operand: str) -> int:
    """Bits of one operand of the products of the attention of that name."""
    bits = policy.bits(f"{attention}.processor.{operand}").activation
    return policy.section.softmax_bits if operand == "softmax" and bits != 32 else bits


def _of_kind(network: nn.Module, kind: type) -> Iterator:
    return (module for module in network.modules() if isinstance(module, kind))


def quantized_weights(network: nn.Module) -> list[QuantizedWeight]:
    return list(_of_kind(network, QuantizedWeight))


def activation_quantizers(network: nn.Module) -> list[ActivationQuantizer]:
    return list(_of_kind(network, ActivationQuantizer))


def _weight_pieces(network: nn.Module, originals: Mapping[str, nn.Module]) -> Iterator[tuple[QuantizedWeight, Tensor]]:
    for name, original in originals.items():
        layer = network.get_submodule(name)
        for quantized, piece in zip(layer.weights, layer.split_weight(float_weight(original))):
            if isinstance(quantized, QuantizedWeight):
                yield quantized, piece


@torch.no_grad()
def calibrate_weights(network: nn.Module, originals: Mapping[str, nn.Module], section) -> None:
    """Choose every weight's scale by `section.weight.scale_search` and round to nearest."""
    for quantized, piece in _weight_pieces(network, originals):
        quantized.calibrate(piece, section.weight.scale_search, section.p)


@torch.no_grad()
def learn_rounding(network: nn.Module, originals: Mapping[str, nn.Module], section) -> None:
    """Give every quantized weight its rounding variables, by `section.weight.rounding` (adaround or
    straight_through).
    """
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
