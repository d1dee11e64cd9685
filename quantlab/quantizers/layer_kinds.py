"""What a Conv2d or Linear computes beside its product, for every kind that can be quantized: a padding of the input
before it, a weight that is made from the parameter. Any other forward pass would be lost when the layer is replaced, so
it is refused.

The input is quantized first and padded then, as torch's own zero padding: padding copies values or adds zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.quantizers.weight_standardization import WeightStandardization

Pad = Callable[[Tensor], Tensor]


@dataclass
class LayerKind:
    """`geometry`: the keyword arguments of F.conv2d, none for a Linear; `pad`: what happens to the input before;
    `standardize`: what the product takes in place of the parameter.
    """

    geometry: dict[str, Any]
    pad: Pad | None = None
    standardize: WeightStandardization | None = None


def layer_kind(layer: nn.Conv2d | nn.Linear) -> LayerKind:
    """How to compute `layer`. Raises ValueError, with the reason in a few words, where it is none of the kinds."""
    weight = layer._parameters.get("weight")
    if weight is None or torch.nn.parameter.is_lazy(weight):
        raise ValueError("its weight is no parameter of its own")
    if not weight.is_floating_point():
        raise ValueError(f"its weight is {weight.dtype}".replace("torch.", ""))
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise ValueError("it has forward hooks")
    if isinstance(layer, nn.Linear):
        if not (_inherits(layer, nn.Linear, "forward") or _is_timms(layer, "Linear")):
            raise ValueError(f"{type(layer).__name__} computes more than a product")
        return LayerKind({})
    if _inherits(layer, nn.Conv2d, "forward", "_conv_forward"):
        return LayerKind(*_geometry_and_pad(layer))
    if _is_timms(layer, "Conv2dSame", "Conv2dSameExport"):
        return LayerKind(_geometry(layer, (0, 0)), _pad_same(layer))
    if _is_timms(layer, "StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"):
        geometry, pad = _geometry_and_pad(layer)
        pad = _pad_same(layer) if getattr(layer, "same_pad", False) else pad
        eps, scale, gain = getattr(layer, "eps"), getattr(layer, "scale", 1.0), getattr(layer, "gain", None)  # noqa: B009
        return LayerKind(geometry, pad, WeightStandardization(eps, scale, gain))
    raise ValueError(f"{type(layer).__name__} computes more than a product")


def _inherits(layer: nn.Module, base: type, *methods: str) -> bool:
    return "forward" not in vars(layer) and all(
        getattr(type(layer), method) is getattr(base, method) for method in methods
    )


def _is_timms(layer: nn.Module, *names: str) -> bool:
    kind = type(layer)  # by name: timm need not be there
    return "forward" not in vars(layer) and kind.__module__.startswith("timm.layers.") and kind.__name__ in names


def _geometry(layer: nn.Conv2d, padding: tuple[int, ...]) -> dict[str, Any]:
    return {"stride": layer.stride, "padding": padding, "dilation": layer.dilation, "groups": layer.groups}


def _geometry_and_pad(layer: nn.Conv2d) -> tuple[dict[str, Any], Pad | None]:
    """torch's own Conv2d, its padding in numbers. What F.conv2d cannot do, other values than zero and other widths on
    one side than on the other, is done before it.
    """
    spread = [width * (size - 1) for width, size in zip(layer.dilation, layer.kernel_size)]
    if isinstance(layer.padding, str):  # valid, same
        padding = (0, 0) if layer.padding == "valid" else tuple(total // 2 for total in spread)
    else:
        padding = layer.padding
    is_even = layer.padding != "same" or not any(total % 2 for total in spread)
    if layer.padding_mode == "zeros" and is_even:
        return _geometry(layer, padding), None
    (top, left), (bottom, right) = padding, padding
    if layer.padding == "same":  # the odd one is last, as in torch
        bottom, right = (total - total // 2 for total in spread)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return _geometry(layer, (0, 0)), partial(F.pad, pad=(left, right, top, bottom), mode=mode)


def _pad_same(layer: nn.Conv2d) -> Pad:
    """TensorFlow's SAME padding, whose widths depend on the size of the input."""
    from timm.layers.padding import pad_same

    geometry: Any = {"kernel_size": layer.kernel_size, "stride": layer.stride, "dilation": layer.dilation}
    return partial(pad_same, **geometry)
