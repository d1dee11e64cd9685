"""One bit: the binary networks of XNOR-Net and ReActNet.

"XNOR-Net", Rastegari et al., ECCV 2016 (arXiv 1603.05279): weights sign(w) mean|w| per output channel; gradients pass
sign where |w| <= 1, times mean|w| (Sec. 3.1).

"ReActNet", Liu et al., ECCV 2020 (arXiv 2003.03488): the same weights, but gradients pass as they are where |w| <= 1
(the released code; so steps of weights do not shrink with the weights); inputs sign(x - beta) with one learned shift
beta per channel (RSign, Eq. 1), whose gradient is that of Bi-Real Net's piecewise polynomial, 2 - 2 |x| within one of
the shift. The network's other half, RPReLU, is in quantlab/models/reactnet.py.

Zero counts as positive everywhere; in the released code, which uses torch.sign, it stays zero.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quantlab.quantizers.autograd_function import QuantizerFunction
from quantlab.quantizers.fixed_point import FixedPointActivation
from quantlab.quantizers.integers import SIGN, Grid
from quantlab.quantizers.policy import Layer, Policy
from quantlab.quantizers.trained import ActivationQuantizer, LatentWeightQuantizer

if TYPE_CHECKING:
    from quantlab.config.quantizers.binary import Binary


class _ScaledSign(QuantizerFunction):
    @staticmethod
    def forward(w: Tensor, size: Tensor) -> Tensor:
        return torch.where(w >= 0, size, -size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        w, size = ctx.saved_tensors
        return grad * size * (w.abs() <= 1), None


def scaled_sign(w: Tensor, size: Tensor) -> Tensor:
    """sign(w) size, a float tensor of w's shape `[O, ...]`; zero counts as positive. size: `[O, 1, ...]`, taken as
    constant.

    dw = size where |w| <= 1, else 0. (XNOR-Net adds 1/n, n weights to a channel, for what w does to the size: with the
    other weights' share left out that is no derivative, and it is small.)
    """
    return _ScaledSign.call(w, size)


class _StraightSign(_ScaledSign):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * (ctx.saved_tensors[0].abs() <= 1), None


def straight_sign(w: Tensor, size: Tensor) -> Tensor:
    """As `scaled_sign`, with the gradient of ReActNet's code: dw = 1 where |w| <= 1, ends included, else 0,
    whatever the size.
    """
    return _StraightSign.call(w, size)


class _PolynomialSign(QuantizerFunction):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = (2 - 2 * x.abs()).clamp_(min=0)
        return grad * slope


def polynomial_sign(x: Tensor) -> Tensor:
    """sign(x), a float tensor of x's shape (any), with the gradient of Bi-Real Net (Liu et al., ECCV 2018, Eq. 6)."""
    return _PolynomialSign.call(x)


class BinaryWeight(LatentWeightQuantizer):
    """sign(w) mean|w|, the mean over all but the output channel. Nothing is learned but the latent weight."""

    is_sign = True

    def __init__(self, channels: int = 1):
        super().__init__(bits=1)
        self.size: Tensor
        self.register_buffer("size", torch.ones(channels))  # mean |w| of the last forward pass

    @property
    def limits(self) -> tuple[float, float]:
        return -1.0, 1.0

    @property
    def effective_step_size(self) -> Tensor:
        return self.size.mean() / 2

    def grid(self) -> Grid:
        size = self.size.clamp_min(1e-12)
        return Grid(SIGN.scale * size, SIGN.zero_point.expand_as(size), axis=0)

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        self.size = weight.abs().flatten(1).mean(dim=1)

    def _size_like(self, weight: Tensor) -> Tensor:
        return self.size.view(-1, *[1] * (weight.ndim - 1)).to(weight.dtype).clamp_min(1e-12)  # a channel of zeros

    def in_levels(self, weight: Tensor) -> Tensor:
        return weight / self._size_like(weight)

    def latent(self, levels: Tensor) -> Tensor:
        return levels * self._size_like(levels)

    def forward(self, weight: Tensor) -> Tensor:
        self.calibrate(weight.detach())
        return scaled_sign(weight, self._size_like(weight))


class ReActNetWeight(BinaryWeight):
    """The same values, whose gradient is not multiplied by mean|w|."""

    def forward(self, weight: Tensor) -> Tensor:
        self.calibrate(weight.detach())
        return straight_sign(weight, self._size_like(weight))


class RSign(ActivationQuantizer):
    """sign(x - beta), -1 or 1, of an input `[N, C, ...]`, or `[..., C]` of a linear layer. beta starts at 0, and at the
    channel's mean where no input is negative, which would otherwise all become 1 (our choice: ReActNet's inputs are
    signed).
    """

    def __init__(self, channels: int, is_conv: bool):
        super().__init__(bits=1)
        self.channel = 1 if is_conv else -1
        self.beta = nn.Parameter(torch.zeros(channels))

    def _beta_like(self, x: Tensor) -> Tensor:
        return self.beta.view(-1, *[1] * (x.ndim - 2)) if self.channel == 1 else self.beta

    def grid(self) -> Grid:
        return SIGN

    def choose_scale(self, x: Tensor) -> None:
        if not self.is_signed:
            others = [dim for dim in range(x.ndim) if dim != self.channel % x.ndim]
            self.beta.copy_(x.mean(dim=others))

    def forward(self, x: Tensor) -> Tensor:
        return polynomial_sign(x - self._beta_like(x))


class BinaryPolicy(Policy):
    """quantizer=binary: XNOR-Net's weights; inputs 0 or 1 (Eq. 13 of the transition-rate paper), or -1 or 1 where
    signed.
    """

    def __init__(self, section: "Binary", learn_weight_scale: bool = True):
        super().__init__(section, learn_weight_scale)
        self.signed = section.activation.signed

    def weight(self, shape: torch.Size, bits: int) -> BinaryWeight:
        return BinaryWeight(shape[0])

    def activation(self, layer: Layer, bits: int) -> ActivationQuantizer:
        return FixedPointActivation(1, self.signed)


class ReActNetPolicy(Policy):
    """quantizer=reactnet."""

    def weight(self, shape: torch.Size, bits: int) -> ReActNetWeight:
        return ReActNetWeight(shape[0])

    def activation(self, layer: Layer, bits: int) -> ActivationQuantizer:
        if isinstance(layer, nn.Conv2d):
            return RSign(layer.in_channels, is_conv=True)
        return RSign(layer.in_features, is_conv=False)
