"""What of a network is quantized, and what stays in full precision and why: the facts of a run's layers.json.

`survey` looks at the network before its layers are replaced, `describe_layers` afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from quantlab.quantizers.attention import QuantizedAttention, is_attention
from quantlab.quantizers.insert import quantizable_layers
from quantlab.quantizers.layer import QuantizedLayer
from quantlab.quantizers.policy import Policy
from quantlab.quantizers.trace import NORMALIZATIONS, LayerCalls, is_layer, trace_layers

BIASES = "(biases of layers)"
# of attention, by their operands
PRODUCTS = {"(query key)": ("query", "key"), "(softmax value)": ("softmax", "value")}


@dataclass
class Part:
    """Something of a network that holds parameters. kind: class of its module, `Parameter`, or `biases`."""

    kind: str
    parameters: int
    calls: LayerCalls
    is_layer: bool = False


@dataclass
class Survey:
    """A network in full precision: its parts by name, multiplications of two activations by the module that makes them,
    and the names of the layers that a policy speaks about, in their order.
    """

    parts: dict[str, Part]
    products: dict[str, int]
    quantizable: list[str]


def survey(network: nn.Module, forward: Callable[[], Any]) -> Survey:
    """Parameters and multiplications of every part of `network`, in one forward pass, which `forward()` makes.

    A layer's part holds its weight; the biases of all layers are one part. A parameter with several dimensions that is
    no layer's, as a position embedding, is a part; others are one with their module, as a normalization.
    """
    traced = trace_layers(network, forward)
    parts: dict[str, Part] = {}
    biases = Part("biases", 0, LayerCalls())
    seen: set[int] = set()  # tied parameters count once

    def size(parameter: nn.Parameter) -> int:
        new = id(parameter) not in seen
        seen.add(id(parameter))
        return parameter.numel() if new else 0

    for name, module in network.named_modules():
        layer = is_layer(module)
        if layer:
            weight = module._parameters.get("weight")
            parts[name] = Part(
                type(module).__name__, 0 if weight is None else size(weight), traced[name], is_layer=True
            )
        for own, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            key = f"{name}.{own}".lstrip(".")
            if layer and own in ("weight", "bias"):
                biases.parameters += size(parameter) if own == "bias" else 0
            elif parameter.ndim > 1 and not isinstance(module, NORMALIZATIONS):
                parts[key] = Part("Parameter", size(parameter), traced.get(key, LayerCalls()))
            else:
                parts.setdefault(name, Part(type(module).__name__, 0, LayerCalls())).parameters += size(parameter)
    parts[BIASES] = biases
    owned = [name for name, part in parts.items() if part.calls is traced.get(name)]
    products = {name: calls.multiplications for name, calls in traced.items() if name not in owned}
    return Survey(parts, products, list(quantizable_layers(network)))


def describe_layers(
    surveyed: Survey, network: nn.Module, policy: Policy, forward: Callable[[], Any]
) -> dict[str, dict[str, Any]]:
    """By name of every part of the network: `kind`; bits of `weight` (None where there is none), `input` and `gradient`
    (of the output), 32 = full precision; `parameters` and `multiplications`, shares of the whole, which each sum to 1;
    and where weight or input stays in full precision `reason`: policy, first, last (the bits that the policy gives
    those), kind (of layer that is not quantized), never called (the layer's forward, by the network), attention
    product.

    `network`: the surveyed one, its layers replaced; `forward()` makes a pass of it, which shows whether they are
    called.
    """
    traced = trace_layers(network, forward)
    entries: dict[str, dict[str, Any]] = {}
    for name, part in surveyed.parts.items():
        entry = {
            "kind": part.kind,
            "weight": 32,
            "input": 32,
            "gradient": 32,
            "parameters": part.parameters,
            "multiplications": part.calls.multiplications,
        }
        if part.is_layer:
            bits = _bits(network.get_submodule(name))
            is_called = part.calls.calls + part.calls.direct_uses > 0 if bits is None else traced[name].calls > 0
            entry |= bits if bits and is_called else {}
            needs_reason = 32 in (entry["weight"], entry["input"])
            entries[name] = entry | ({"reason": _reason(surveyed, name, is_called, policy)} if needs_reason else {})
        elif part.parameters or part.calls.multiplications:
            entries[name] = entry | {"reason": "kind"}
    for name, multiplications in surveyed.products.items():
        entries |= _products(name, multiplications, network, policy)
    totals = {key: sum(entry[key] for entry in entries.values()) or 1 for key in ("parameters", "multiplications")}
    return {name: entry | {key: entry[key] / total for key, total in totals.items()} for name, entry in entries.items()}


def _products(name: str, multiplications: int, network: nn.Module, policy: Policy) -> dict[str, dict[str, Any]]:
    """Products of two activations inside the module of that name. Those of an attention that is quantized, of one size
    each, have an entry each.
    """
    module = network.get_submodule(name)
    entry = {
        "kind": "attention product",
        "weight": None,
        "input": 32,
        "gradient": 32,
        "parameters": 0,
        "multiplications": multiplications,
    }
    if not (is_attention(module) and isinstance(module.processor, QuantizedAttention)):
        known = policy.attention and is_attention(module)
        return {f"{name} (products)".strip(): entry | {"reason": "policy" if known else "attention product"}}
    found = {}
    for product, operands in PRODUCTS.items():
        bits = max(policy.operand_bits(name, operand) for operand in operands)
        found[f"{name}.processor {product}"] = (
            entry
            | {"input": bits, "multiplications": multiplications / 2}
            | ({"reason": "policy"} if bits == 32 else {})
        )
    return found


def _bits(layer: nn.Module) -> dict[str, int] | None:
    """Of weight, input and gradient of a layer that was replaced; None of another."""
    if not isinstance(layer, QuantizedLayer):
        return None
    found = (layer.weight_quantizer, layer.activation_quantizer, layer.gradient_quantizer)
    return {
        part: 32 if quantizer is None else quantizer.bits
        for part, quantizer in zip(("weight", "input", "gradient"), found)
    }


def _reason(surveyed: Survey, name: str, is_called: bool, policy: Policy) -> str:
    """Why the weight or the input of a layer stays in full precision."""
    if not is_called:
        return "never called"
    if name not in surveyed.quantizable:
        return "kind"
    is_ruled = any(rule.pattern.search(name) for rule in (*policy.rules, *policy.preset_rules))
    if 32 not in (policy.whole.weight, policy.whole.activation) and not is_ruled:
        if name == surveyed.quantizable[0]:
            return "first"
        if name == surveyed.quantizable[-1]:
            return "last"
    return "policy"
