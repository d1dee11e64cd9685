"""Networks that take a layer's weight past the layer: `F.linear(x, self.qkv.weight, bias)`, as BEiT's, EVA's and Swin's
attention.

The layer's `forward` never runs there, so that replacing the layer would quantize nothing. A function mode, on while
the network runs, turns such a product into a call of the layer that the weight belongs to. (A parametrization would
quantize the weight, but neither the input nor the gradient.) Only products of the weight itself are seen, not those of
a part or a copy of it, nor what a function does
inside: torch's MultiheadAttention hands `out_proj.weight` to one that does everything.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode


def _linear(input, weight, bias=None):
    return input, weight, bias, {}


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return (
        input,
        weight,
        bias,
        {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation), "groups": groups},
    )


PRODUCTS = {F.linear: _linear, F.conv2d: _conv2d}


class DirectUse(TorchFunctionMode):
    """Inside, a product of the weight of one of `layers`, as that layer would make it, is a call of the layer, with the
    bias given.

    layers: modules that have `weight`, `makes_product(geometry)`, and take `(x, bias)`.
    """

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = layers
        self.used = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in PRODUCTS:  # in here the mode is off: the layer's own product is not seen again
            x, weight, bias, geometry = PRODUCTS[func](*args, **kwargs)
            for layer in self.layers:
                if weight is layer.weight and layer.makes_product(geometry):
                    self.used = True
                    return layer(x, bias)
        return func(*args, **kwargs)


def follow_direct_uses(network: nn.Module, layers: Callable[[nn.Module], list[nn.Module]]) -> None:
    """From now on `network` runs inside `DirectUse` of `layers(network)`; for good if its first pass has such products,
    else that pass
    is the only one. Copies of the network do likewise."""
    network.direct_use_layers = layers
    network.uses_weights_directly = None  # not known yet
    network.plain_forward = network.forward
    network.forward = MethodType(_forward, network)


def _forward(network: nn.Module, *args, **kwargs) -> Any:
    mode = DirectUse(network.direct_use_layers(network))
    with mode:
        out = network.plain_forward(*args, **kwargs)
    if network.uses_weights_directly is None:
        network.uses_weights_directly = mode.used
        if not mode.used:
            network.forward = network.plain_forward
    return out
