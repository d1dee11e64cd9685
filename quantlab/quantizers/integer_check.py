"""Whether the simulated products of a layer are the arithmetic they simulate: integers, multiplied and summed as
integers.

Training simulates integers by floats that lie on a grid. Here the three products of a layer's training step, its
output, the gradient of its input and the gradient of its weight, are made again from the integers themselves,

    y = x * w,   dx = g *' w,   dw = x *' g        (* and *': convolution or matrix product, and its transposes)

and compared with what the simulation gave, up to the one scale that multiplies the whole: s_x s_w, s_g s_w, s_x s_g.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.errors import RunError
from quantlab.quantizers.base import Quantizer, WeightQuantizer
from quantlab.quantizers.gradient import GradientQuantizer, max_abs, untouched
from quantlab.quantizers.gradient_codes import LEAST, largest_code
from quantlab.quantizers.insert import quantized_layers
from quantlab.quantizers.integers import Grid, IntegerTensor, through_zero
from quantlab.quantizers.layer import QuantizedLayer

# of the largest value of a product: float32 sums of some thousand terms are not exact, integers are
TOLERANCE = 1e-4


Operands = tuple[WeightQuantizer, Quantizer, GradientQuantizer]  # of weight, input and gradient


def _operands(layer: QuantizedLayer) -> Operands | None:
    """None where one of them stays in full precision."""
    weight, activation, gradient = layer.weight_quantizer, layer.activation_quantizer, layer.gradient_quantizer
    return None if weight is None or activation is None or gradient is None else (weight, activation, gradient)


@dataclass
class _Call:
    """One call of a layer: its name, the bias it was to add, and by `x`, `w`, `y`, `g`, `dx`, `dw` the simulated
    tensors; `gradient`: before quantization.
    """

    name: str
    layer: QuantizedLayer
    quantizers: Operands
    bias: Tensor | None
    tensors: dict[str, Tensor] = field(default_factory=dict)


def check_integers(network: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Any]:
    """One training step of `network` on the batch that `loss()` computes the loss of; nothing of the network changes.

    Returns {"layers", "products": int, "largest_difference": of a product, relative to its largest value (before the
    bias is taken off, and not below one integer's worth), "largest_accumulator": int, "not_checked": by the name of
    every other layer that has a quantizer why it has no product to check}. Raises RunError, naming the layer, where a
    tensor is not on its grid, a product differs by more than TOLERANCE, or a sum does not fit into the accumulator: 32
    bits, and 64 beside gradients of more than 8.
    """
    names, products, difference, accumulator = set(), 0, 0.0, 0
    with untouched(network), _recorded(network) as calls:
        loss().backward()  # type: ignore[no-untyped-call]
    for call in calls:
        if {"dx", "dw"} <= call.tensors.keys():  # else its output took no part in the loss
            names.add(call.name)
            for product, simulated, integers, scale, largest in _products(call):
                difference = max(difference, float((integers * scale - simulated).abs().max()) / largest)
                accumulator = max(accumulator, int(integers.abs().max()))
                allowed = 2**31 - 1 if call.quantizers[2].bits <= 8 else 2**63 - 1
                if difference > TOLERANCE or accumulator > allowed:
                    raise RunError(
                        f"integer check: layer {call.name}, {product}: integers differ from the simulation by"
                        f" {difference:.2e} of the largest value, sums reach {accumulator}; allowed: {TOLERANCE:g} and"
                        f" {allowed}"
                    )
                products += 1
    called = {call.name for call in calls}
    not_checked = {
        name: _why_not(layer, name in called) for name, layer in quantized_layers(network) if name not in names
    }
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(not_checked.items())[:3])
        raise RunError(
            "integer check: no layer has weights, inputs and gradients quantized and an input that needs a gradient"
            + (f" ({reasons})" if reasons else "")
        )
    return {
        "layers": len(names),
        "products": products,
        "largest_difference": difference,
        "largest_accumulator": accumulator,
        "not_checked": not_checked,
    }


def _why_not(layer: QuantizedLayer, is_called: bool) -> str:
    if _operands(layer) is None:
        return "not all of weight, input and gradient are quantized"
    return "no gradient comes through it" if is_called else "never called"


@contextlib.contextmanager
def _recorded(network: nn.Module) -> Iterator[list[_Call]]:
    """Inside, every call of a layer whose three operands are quantized is recorded, and in its backward pass its
    gradients.
    """
    calls: list[_Call] = []
    handles = []

    def on_call(name: str, layer: QuantizedLayer, quantizers: Operands) -> None:
        def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
            calls.append(_Call(name, layer, quantizers, args[1] if len(args) > 1 else layer.bias))

        def keep(key: str, gradient_key: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
                tensors = calls[-1].tensors
                tensors[key] = output.detach()
                if output.requires_grad:
                    _keep_gradient(output, tensors, gradient_key)

            return hook

        def on_product(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            tensors = calls[-1].tensors
            tensors["y"] = args[0].detach()
            _keep_gradient(args[0], tensors, "g")
            _keep_gradient(output, tensors, "gradient")

        handles.append(layer.register_forward_pre_hook(begin))
        weight, activation, gradient = quantizers
        handles.append(activation.register_forward_hook(keep("x", "dx")))
        handles.append(weight.register_forward_hook(keep("w", "dw")))
        handles.append(gradient.register_forward_hook(on_product))

    for name, layer in quantized_layers(network):
        if (quantizers := _operands(layer)) is not None:
            on_call(name, layer, quantizers)
    yield calls
    for handle in handles:
        handle.remove()


def _keep_gradient(output: Tensor, tensors: dict[str, Tensor], key: str) -> None:
    """Under that key, once it comes."""

    def keep(gradient: Tensor) -> None:
        tensors[key] = gradient.detach()

    output.register_hook(keep)  # type: ignore[no-untyped-call]


def _codes(call: _Call, key: str, grid: Grid, bits: int) -> Tensor:
    """The tensor as integers, int64, on the CPU: CUDA multiplies no matrices of them. Raises RunError where it is not
    on its grid, or that is no multiples of a step.
    """
    try:
        if grid.zero_point.any():
            raise RunError("integers: got a grid with a zero point, allowed: whole multiples of one step")
        return IntegerTensor.of(call.tensors[key], grid, bits).codes.cpu().long()
    except RunError as error:
        raise RunError(f"integer check: layer {call.name}, {key}: {error}") from None


def _products(call: _Call) -> list[tuple[str, Tensor, Tensor, Tensor, float]]:
    """Name, simulated tensor, integer tensor (int64), scale (a scalar, or one of each channel), and the value that
    errors are compared with, of the three products of one call.
    """
    layer, tensors = call.layer, call.tensors
    weight, activation, gradient = call.quantizers
    q = largest_code(gradient.bits)
    of_x, of_w = activation.grid(), weight.grid()
    s_g = gradient.interval.clip_ratio * max_abs(tensors["gradient"], gradient.per_channel).clamp_min(LEAST) / q
    of_g = through_zero(s_g.flatten(), True, tensors["g"].ndim - 3) if gradient.per_channel else through_zero(s_g, True)
    x, w = _codes(call, "x", of_x, activation.bits), _codes(call, "w", of_w, weight.bits)
    g = _codes(call, "g", of_g, gradient.bits)
    s_x, s_w, s_g = of_x.scale.cpu(), of_w.scale.cpu(), s_g.cpu()
    simulated = tensors["y"]
    if call.bias is not None and layer.output_scale is None:
        simulated = simulated - (call.bias.detach().view(-1, 1, 1) if layer.is_conv else call.bias.detach())
    y, dx, dw = _convolved(x, w, g, layer) if layer.is_conv else _multiplied(x, w, g)
    of_rows = s_g.view(-1, 1, 1, 1) if gradient.per_channel else s_g  # the weight has a row per channel
    found = [
        ("output", simulated.cpu(), y, s_x * s_w),
        ("gradient of the input", tensors["dx"].cpu(), dx, s_g * s_w),
        ("gradient of the weight", tensors["dw"].cpu(), dw, s_x * of_rows),
    ]
    # What float32 had to resolve: a sum beside its bias, and where all sums are zero, the unit that their terms are
    # made of.
    held = float(tensors["y"].abs().max()), 0.0, 0.0
    return [
        (*product, max(float(product[1].abs().max()), float(product[3].max()), size))
        for product, size in zip(found, held)
    ]


def _multiplied(x: Tensor, w: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integer x w^T, g w and g^T x of codes [..., I], [O, I], [..., O]."""
    return x @ w.T, g @ w, g.flatten(0, -2).T @ x.flatten(0, -2)


def _convolved(x: Tensor, w: Tensor, g: Tensor, layer: QuantizedLayer) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a convolution, as matrix products over patches. Moving integers about as float64, and adding the few
    that a padding has copied, does not change them.
    """
    geometry = {name: layer.conv[name] for name in ("stride", "padding", "dilation")}
    groups, kernel = layer.conv["groups"], w.shape[2:]
    x = x.double()
    padded = x if layer.pad is None else layer.pad(x)
    patches = F.unfold(padded, kernel, **geometry).long()  # [N, C k k, L]
    patches = torch.unflatten(patches, 1, (groups, -1))  # [N, G, C/G k k, L]
    rows = torch.unflatten(w.flatten(1), 0, (groups, -1))  # [G, O/G, C/G k k]
    columns = torch.unflatten(g.flatten(2), 1, (groups, -1))  # [N, G, O/G, L]
    y = (rows @ patches).flatten(1, 2).reshape(g.shape)
    spread = (rows.transpose(1, 2) @ columns).flatten(1, 2)
    dx = F.fold(spread.double(), padded.shape[2:], kernel, **geometry)
    if layer.pad is not None:
        dx = torch.autograd.functional.vjp(layer.pad, x, dx)[1]  # type: ignore[no-untyped-call]
    dw = (columns @ patches.transpose(2, 3)).sum(0).flatten(0, 1).reshape(w.shape)
    return y, dx.long(), dw
