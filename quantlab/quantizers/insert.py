"""Put quantizers into a network, for training and after it: which of its layers a policy quantizes, and their place.

Conv2d, Linear and attention products are replaced one by one, in place; the network's own code is untouched, so any
diffusers or timm model works.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from quantlab.errors import RequestError
from quantlab.quantizers.attention import QuantizedAttention, QuantizedJointAttention, is_attention, is_joint
from quantlab.quantizers.direct_use import follow_direct_uses
from quantlab.quantizers.layer import QuantizedLayer, SplitInput, SplitWeight
from quantlab.quantizers.layer_kinds import layer_kind
from quantlab.quantizers.policy import Layer, LayerBits, Policy
from quantlab.quantizers.refusal import refusal, require_matches, unknown_kinds
from quantlab.quantizers.trained import LatentWeightQuantizer
from quantlab.quantizers.weight_standardization import StandardizedWeightQuantizer

OPERANDS = ("query", "key", "value", "softmax")  # of the two products of attention


def quantizable_layers(network: nn.Module) -> dict[str, Layer]:
    """The layers of `network` that a policy speaks about, by name; the first and the last of them are what it calls
    so.
    """
    return {name: module for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}


def planned_bits(network: nn.Module, policy: Policy) -> dict[str, LayerBits]:
    """The layers of `network` that `policy` quantizes, by name.

    Raises RequestError for rules that concern no layer, and for layers that cannot be quantized: all of them, and what
    to type.
    """
    policy.suit(network)
    layers = quantizable_layers(network)
    operands = [f"{name}.processor.{operand}" for name in _attentions(network, policy) for operand in OPERANDS]
    require_matches(policy.rules, [*layers, *operands])
    first, last = next(iter(layers), None), next(reversed(layers), None)
    bits = {name: policy.bits(name, name == first, name == last) for name in layers}
    planned = {name: one for name, one in bits.items() if one != LayerBits(32, 32)}
    if refused := unknown_kinds({name: layers[name] for name in planned}):
        raise RequestError(refusal(refused, planned, policy.rules))
    return planned


def _attentions(network: nn.Module, policy: Policy) -> dict[str, nn.Module]:
    """The attentions of `network` whose products `policy` speaks about, by name."""
    modules = network.named_modules() if policy.attention else ()
    return {name: module for name, module in modules if is_attention(module)}


def insert(network: nn.Module, policy: Policy, splits: Mapping[str, int] | None = None) -> None:
    """Replace the Conv2d and Linear layers and attention products of `network` that `policy` quantizes, in place, under
    every name they have; scales are still blank. Where weights are trained, layers whose weights the network takes past
    them are quantized there (`direct_use`).

    splits: input channels at which a layer's input is the concatenation of two tensors, by module name.
    Raises RequestError as `planned_bits`.
    """
    names_of: dict[nn.Module, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        names_of.setdefault(module, []).append(name)
    layers, attentions = quantizable_layers(network), _attentions(network, policy)
    planned = planned_bits(network, policy)
    for name, bits in planned.items():
        split = (splits or {}).get(name) if policy.split_shortcuts else None
        layer = replacement(layers[name], policy, bits, split)
        for place in names_of[layers[name]]:
            network.set_submodule(place, layer)
    for name, attention in attentions.items():
        exempt = policy.preset_rules or is_joint(attention)
        if exempt and all(policy.operand_bits(name, operand) == 32 for operand in OPERANDS):
            continue  # its own processor may be a fused one, which keeps no product in memory
        device = next(network.parameters()).device
        found: Any = attention
        found.set_processor(attention_products(name, found, policy).to(device))
    if planned and policy.trains:
        follow_direct_uses(network, _layers)


def replacement(layer: Layer, policy: Policy, bits: LayerBits, split: int | None = None) -> QuantizedLayer:
    """The layer of these bits in place of `layer`, whose parameters it takes over, on its device."""
    weight, activation = None, None
    channels = layer.weight.shape[1]
    sizes = [channels] if split is None else [split, channels - split]
    if bits.weight != 32:
        shapes = [torch.Size((layer.weight.shape[0], size, *layer.weight.shape[2:])) for size in sizes]
        parts = [policy.weight(shape, bits.weight) for shape in shapes]
        weight = parts[0] if split is None else SplitWeight(parts, sizes)
        standardize = layer_kind(layer).standardize
        if standardize is not None and isinstance(weight, LatentWeightQuantizer):
            weight = StandardizedWeightQuantizer(weight, standardize)
    if bits.activation != 32:
        inputs = [policy.activation(layer, bits.activation) for _ in sizes]
        dim = 1 if isinstance(layer, nn.Conv2d) else -1
        activation = inputs[0] if split is None else SplitInput(inputs, sizes, dim)
    replaced = QuantizedLayer(layer, weight, activation, policy.gradient(layer), policy.output_scale)
    if not policy.trains:
        replaced.fold_standardization()
    return replaced.to(layer.weight.device)


def attention_products(name: str, attention: Any, policy: Policy) -> QuantizedAttention:
    """The products of the attention of that name."""
    bits = {operand: policy.operand_bits(name, operand) for operand in OPERANDS}
    operands: dict[str, nn.Module] = {
        operand: nn.Identity() if own == 32 else policy.operand(operand, own) for operand, own in bits.items()
    }
    if is_joint(attention):
        return QuantizedJointAttention(attention.processor, **operands)
    return QuantizedAttention(**operands)


def _layers(network: nn.Module) -> list[QuantizedLayer]:
    return [layer for _, layer in quantized_layers(network)]


def quantized_layers(network: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """Name and module of every layer with a quantizer."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, QuantizedLayer))


def weight_quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """Those whose weight is quantized, by name."""
    return {name: layer for name, layer in quantized_layers(network) if layer.weight_quantizer is not None}


def standardized_layers(network: nn.Module, planned: Mapping[str, LayerBits]) -> list[str]:
    """Those of the `planned` layers whose weight is quantized in its standardized form (`weight_standardization`)."""
    layers = quantizable_layers(network)
    return [
        name for name, bits in planned.items() if bits.weight != 32 and layer_kind(layers[name]).standardize is not None
    ]


def quantizer_parameters(network: nn.Module) -> list[nn.Parameter]:
    """What the quantizers of `network` learn: scales, intervals, shifts, output scales."""
    found = []
    for _, layer in quantized_layers(network):
        parts = (layer.weight_quantizer, layer.activation_quantizer)
        found += [parameter for part in parts if part is not None for parameter in part.parameters()]
        found += [] if layer.output_scale is None else [layer.output_scale]
    return found


def drop_float_weights(network: nn.Module) -> None:
    """Let go of the float weights of all layers whose quantizers hold codes."""
    for _, layer in quantized_layers(network):
        layer.drop_float_weight()
