"""Conv2d and Linear layers that train a latent weight through a quantizer, put into a network by name.

The layer keeps `weight` and `bias` under their names, so full-precision weights load as they are; what is added are
`weight_quantizer`, `activation_quantizer` and `gradient_quantizer`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.errors import RequestError
from quantlab.quantizers.direct_use import follow_direct_uses
from quantlab.quantizers.gradient import GradientQuantizer
from quantlab.quantizers.gradient_interval import build_interval
from quantlab.quantizers.layer_kinds import layer_kind
from quantlab.quantizers.refusal import refusal, require_matches, unknown_kinds
from quantlab.quantizers.trained import ActivationQuantizer, LatentWeightQuantizer, require_values
from quantlab.quantizers.weight_standardization import StandardizedWeightQuantizer
from quantlab.quantizers.wrap import LayerBits, quantizable_layers


class TrainedQuantizedLayer(nn.Module):
    """A Conv2d or Linear of one of `layer_kinds`, whose input and latent weight pass quantizers, and the gradient of
    whose output does on its way back; None: that one stays in full precision.

    With `output_scale` the product of both is multiplied by the magnitude of a learned number, before the bias: for
    quantizers whose weights and inputs lost their size, where no normalization follows.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        weight_quantizer: LatentWeightQuantizer | None,
        activation_quantizer: ActivationQuantizer | None,
        output_scale: bool,
        gradient_quantizer: GradientQuantizer | None = None,
    ):
        super().__init__()
        for name, parameter in layer._parameters.items():  # weight, bias, and a standardized weight's gain
            self.register_parameter(name, parameter)
        for name in layer.__constants__:  # networks ask for in_features, kernel_size, ...
            setattr(self, name, getattr(layer, name))
        kind = layer_kind(layer)
        self.is_conv, self.conv, self.pad, self.standardize = (
            isinstance(layer, nn.Conv2d),
            kind.geometry,
            kind.pad,
            kind.standardize,
        )
        self.weight_quantizer, self.activation_quantizer = weight_quantizer, activation_quantizer
        self.gradient_quantizer = gradient_quantizer
        self.output_scale = nn.Parameter(torch.ones(())) if output_scale else None
        self.calibrating = False

    def forward(self, x: Tensor, *other_bias: Tensor | None) -> Tensor:
        """other_bias: one in place of the layer's own, from a network that takes the weight past the layer
        (`direct_use`).
        """
        bias = other_bias[0] if other_bias else self.bias
        if self.calibrating:
            self._calibrate(x)
            self.calibrating = False
        x, weight = self._quantized(x)
        if self.output_scale is None:
            return self._product(x, weight, bias)
        out = self._product(x, weight, None) * self.output_scale.abs()
        if bias is None:
            return out
        return out + (bias.view(-1, 1, 1) if self.is_conv else bias)

    def makes_product(self, geometry: dict) -> bool:
        """Whether the layer is F.linear, or F.conv2d with these arguments, of its weight and nothing else."""
        return geometry == self.conv and self.pad is None and self.standardize is None

    def _quantized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.activation_quantizer is not None:
            x = self.activation_quantizer(x)
        return x, self._float_weight() if self.weight_quantizer is None else self.weight_quantizer(self.weight)

    def _float_weight(self) -> Tensor:
        # A view: `direct_use` would take the product of the parameter itself for one past the layer.
        return self.weight.view_as(self.weight) if self.standardize is None else self.standardize(self.weight)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x if self.pad is None else self.pad(x)
        out = F.conv2d(x, weight, bias, **self.conv) if self.is_conv else F.linear(x, weight, bias)
        return out if self.gradient_quantizer is None else self.gradient_quantizer(out)

    @torch.no_grad()
    def _calibrate(self, x: Tensor) -> None:
        require_values(x)
        if self.activation_quantizer is not None:
            self.activation_quantizer.calibrate(x)
        if self.output_scale is not None:
            # mean |output in full precision| / mean |output quantized| (EWGS)
            wanted = self._product(x, self._float_weight(), None).abs().mean()
            self.output_scale.copy_(wanted / self._product(*self._quantized(x), None).abs().mean().clamp_min(1e-8))


class TrainingPolicy:
    """The `quantizer` section as decisions: which layer gets how many bits, and its quantizers. A quantizer's file
    gives `weight`, `activation` and, if it needs one, `output_scale`.

    Bits of a layer: those of the first rule of `policy` whose pattern is found in its name; else `first_layer` for the
    network's first Conv2d or Linear and `last_layer` for its last, in the order of its modules; else the section's. (In
    all of timm's families but FastViT, whose stem has two branches, and VOLO, which has two heads, these are the first
    and the last that are called.)
    """

    output_scale = False

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

    def weight(self, layer: nn.Conv2d | nn.Linear, bits: int, learn_scale: bool) -> LatentWeightQuantizer:
        """Quantizer of the layer's weight; `learn_scale`: whether what moves its transition points is learned."""
        raise NotImplementedError  # every quantizer's own

    def activation(self, layer: nn.Conv2d | nn.Linear, bits: int) -> ActivationQuantizer:
        """Quantizer of the layer's input."""
        raise NotImplementedError  # every quantizer's own

    def gradient(self, layer: nn.Conv2d | nn.Linear) -> GradientQuantizer | None:
        """Quantizer of the gradient of the layer's output, of every layer whose weight or input is quantized."""
        section = self.section.gradient
        if section.bits == 32:
            return None
        return GradientQuantizer(
            section.bits, build_interval(section), section.granularity == "channel" and is_depthwise(layer)
        )


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each channel of the output comes from one channel of the input that no other sees: scales of channels
    then factor out of
    both products of the backward pass."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def planned_bits(network: nn.Module, policy: TrainingPolicy) -> dict[str, LayerBits]:
    """The layers of `network` that `policy` quantizes, by name.

    Raises RequestError for rules that concern no layer, and for layers that cannot be quantized: all of them, and what
    to type.
    """
    layers = quantizable_layers(network)
    names = list(layers)
    require_matches(policy.rules, names)
    bits = {name: policy.bits(name, name == names[0], name == names[-1]) for name in names}
    planned = {name: one for name, one in bits.items() if one != LayerBits(32, 32)}
    if refused := unknown_kinds({name: layers[name] for name in planned}):
        raise RequestError(refusal(refused, planned, policy.rules))
    return planned


def standardized_layers(network: nn.Module, planned: Mapping[str, LayerBits]) -> list[str]:
    """Those of the `planned` layers whose weight is quantized in its standardized form (`weight_standardization`)."""
    return [
        name
        for name, bits in planned.items()
        if bits.weight != 32 and layer_kind(network.get_submodule(name)).standardize is not None
    ]


def wrap_for_training(network: nn.Module, policy: TrainingPolicy, learn_weight_scale: bool) -> None:
    """Replace the Conv2d and Linear layers of `network` that `policy` quantizes, in place, under every name they have;
    weight scales are calibrated. Layers whose weights the network takes past them are quantized there (`direct_use`).

    Raises RequestError as `planned_bits`.
    """
    modules = dict(network.named_modules())
    names_of: dict[nn.Module, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        names_of.setdefault(module, []).append(name)
    planned = planned_bits(network, policy)
    for name, bits in planned.items():
        weight = None if bits.weight == 32 else policy.weight(modules[name], bits.weight, learn_weight_scale)
        if weight is not None and (standardize := layer_kind(modules[name]).standardize) is not None:
            weight = StandardizedWeightQuantizer(weight, standardize)
        activation = None if bits.activation == 32 else policy.activation(modules[name], bits.activation)
        layer = TrainedQuantizedLayer(
            modules[name], weight, activation, policy.output_scale, policy.gradient(modules[name])
        )
        layer = layer.to(modules[name].weight.device)
        if weight is not None:
            weight.calibrate(layer.weight.detach())
        for place in names_of[modules[name]]:
            network.set_submodule(place, layer)
    if planned:
        follow_direct_uses(network, _layers)


def _layers(network: nn.Module) -> list[TrainedQuantizedLayer]:
    return [layer for _, layer in quantized_layers(network)]


@torch.no_grad()
def calibrate_activations(network: nn.Module, forward: Callable[[], Any]) -> list[str]:
    """One forward pass of `network`, which `forward()` makes, in which every activation quantizer chooses its scale,
    layer by layer, on already quantized inputs.

    In training mode, as the first training batch in the released code: the running statistics are those of the
    full-precision network and would put inputs of another size before the quantizers (ten times at one bit). They stay
    untouched.

    A layer that the pass calls several times, as a detector's head shared by the levels of a pyramid, takes its first
    call: our choice. That is the finest level, which has three quarters of the inputs.
    """
    layers = [layer for _, layer in quantized_layers(network)]
    chosen = {id(buffer) for layer in layers for buffer in layer.buffers()}
    statistics = [(buffer, buffer.clone()) for buffer in network.buffers() if id(buffer) not in chosen]
    was_training = network.training
    for layer in layers:
        layer.calibrating = True
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a network with dropout gets the same scales whatever was drawn before
        network.train()
        forward()
    network.train(was_training)
    unused = [name for name, layer in quantized_layers(network) if layer.calibrating]
    for layer in layers:
        layer.calibrating = False
    for buffer, kept in statistics:
        buffer.copy_(kept)
    return unused


def quantized_layers(network: nn.Module) -> Iterator[tuple[str, TrainedQuantizedLayer]]:
    """Name and module of every layer with a quantizer."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, TrainedQuantizedLayer))


def weight_quantized_layers(network: nn.Module) -> dict[str, TrainedQuantizedLayer]:
    """Those whose weight is quantized, by name."""
    return {name: layer for name, layer in quantized_layers(network) if layer.weight_quantizer is not None}


def quantizer_parameters(network: nn.Module) -> list[nn.Parameter]:
    """What the quantizers of `network` learn: scales, intervals, shifts, output scales."""
    found = []
    for _, layer in quantized_layers(network):
        parts = (layer.weight_quantizer, layer.activation_quantizer)
        found += [parameter for part in parts if part is not None for parameter in part.parameters()]
        found += [] if layer.output_scale is None else [layer.output_scale]
    return found
