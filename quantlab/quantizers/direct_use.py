"""Networks that take a layer's weight past the layer: `F.linear(x, self.qkv.weight, bias)`, as BEiT's, EVA's and Swin's
attention.

The layer's `forward` never runs there, so that replacing the layer would quantize nothing. A function mode, on while
the network runs, turns such a product into a call of the layer that the weight belongs to. (A parametrization would
quantize the weight, but neither the input nor the gradient.) Only products of the weight itself are seen, not those of
a part or a copy of it, nor what a function does inside: torch's MultiheadAttention hands `out_proj.weight` to one that
does everything.
"""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

Product = tuple[Tensor, Tensor, Tensor | None, dict[str, Any]]  # input, weight, bias, and arguments of F.conv2d


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Product:
    return input, weight, bias, {}


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Product:
    return (
        input,
        weight,
        bias,
        {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation), "groups": groups},
    )


PRODUCTS: dict[Any, Callable[..., Product]] = {F.linear: _linear, F.conv2d: _conv2d}


class Replaced(Protocol):
    """A layer that stands in for its product."""

    weight: nn.Parameter | None

    def makes_product(self, geometry: dict[str, Any]) -> bool: ...

    def __call__(self, x: Tensor, bias: Tensor | None, /) -> Tensor: ...


class DirectUse(TorchFunctionMode):
    """Inside, a product of the weight of one of `layers`, as that layer would make it, is a call of the layer, with the
    bias given.

    layers: modules that have `weight`, `makes_product(geometry)`, and take `(x, bias)`.
    """

    def __init__(self, layers: Sequence["Replaced"]):
        super().__init__()
        self.layers = layers
        self.used = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in PRODUCTS:  # in here the mode is off: the layer's own product is not seen again
            x, weight, bias, geometry = PRODUCTS[func](*args, **kwargs)
            for layer in self.layers:
                if weight is layer.weight and layer.makes_product(geometry):
                    self.used = True
                    return layer(x, bias)
        return func(*args, **kwargs)


def follow_direct_uses(network: nn.Module, layers: Callable[[nn.Module], Sequence[Replaced]]) -> None:
    """From now on `network` runs inside `DirectUse` of `layers(network)`; for good if its first pass has such products,
    else that pass is the only one. Copies of the network do likewise.
    """
    follower: Any = network  # these attributes are ours
    follower.direct_use_layers = layers
    follower.uses_weights_directly = None  # not known yet
    follower.plain_forward = network.forward
    follower.forward = MethodType(_forward, network)


def _forward(network: Any, *args: Any, **kwargs: Any) -> Any:
    mode = DirectUse(network.direct_use_layers(network))
    with mode:
        out = network.plain_forward(*args, **kwargs)
    if network.uses_weights_directly is None:
        network.uses_weights_directly = mode.used
        if not mode.used:
            network.forward = network.plain_forward
    return out
