"""LSQ: "Learned Step Size Quantization", Esser et al., ICLR 2020 (arXiv 1902.08153).

v_bar = round(clip(v / s, -Q_N, Q_P)),   v_hat = v_bar s                                     (1), (2)
weights and signed inputs  Q_N = 2^(b-1), Q_P = 2^(b-1) - 1;   other inputs  Q_N = 0, Q_P = 2^b - 1
d v_hat / d s = round(v / s) - v / s inside the range, -Q_N or Q_P outside                   (3)
times g = 1 / sqrt(N Q_P), N: number of weights, or of inputs of one image                   (Sec. 2.2)
s starts at 2 mean|v| / sqrt(Q_P)                                                            (Sec. 2.1)
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quantlab.quantizers.autograd_function import QuantizerFunction
from quantlab.quantizers.integers import Grid, through_zero
from quantlab.quantizers.policy import Layer, Policy
from quantlab.quantizers.trained import ActivationQuantizer, LatentWeightQuantizer, clip, for_compiler, straight_through

if TYPE_CHECKING:
    from quantlab.config.quantizers.lsq import LSQ

EPS = 1e-8  # added to |s|: our choice, a step that is learned might reach zero


def step_range(bits: int, signed: bool) -> tuple[float, float]:
    """-Q_N and Q_P."""
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)


class _LSQ(QuantizerFunction):
    @staticmethod
    def forward(v: Tensor, s: Tensor, low: float, high: float, g: float) -> Tensor:
        size = s.abs() + EPS
        return (v * (1 / size)).clamp_(low, high).round_().mul_(size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        v, s, *ctx.constants = inputs
        ctx.save_for_backward(v, s)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, s = ctx.saved_tensors
        low, high, g = ctx.constants
        in_levels = v * (1 / (s.abs() + EPS))
        clipped = in_levels.clamp(low, high)
        inside = in_levels == clipped
        grad_s = None
        if ctx.needs_input_grad[1]:
            # clipped.round() - v / s inside; the clipped value itself, which is whole, outside
            slope = clipped.round_().sub_(torch.where(inside, in_levels, 0.0))
            product = grad.flatten().to(s.dtype) @ slope.flatten().to(s.dtype)  # half precision would overflow
            grad_s = (product * g * s.sign()).reshape(s.shape)
        return grad * inside if ctx.needs_input_grad[0] else None, grad_s, None, None, None


class _ScaledGradient(QuantizerFunction):
    @staticmethod
    def forward(s: Tensor, g: float) -> Tensor:
        return s.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.g = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.g, None


def _composed(v: Tensor, s: Tensor, low: float, high: float, g: float) -> Tensor:
    size = _ScaledGradient.call(s, g).abs() + EPS
    clipped = clip(v.to(s.dtype) * (1 / size), low, high)
    return (straight_through(clipped.detach().round(), clipped) * size).to(v.dtype)


def lsq(v: Tensor, s: Tensor, low: float, high: float, g: float) -> Tensor:
    """v_hat of Eq. (2), a float tensor of v's shape (any). s: a float tensor of one element; g: what its gradient is
    scaled by.

    dv_hat/dv = 1 where low <= v / s <= high, else 0.
    """
    return (
        for_compiler(_composed, v, s, low, high, g) if torch.compiler.is_compiling() else _LSQ.call(v, s, low, high, g)
    )


class LSQWeight(LatentWeightQuantizer):
    """A latent weight's quantizer of 2 bits or more."""

    def __init__(self, bits: int, learn_scale: bool):
        super().__init__(bits)
        self.scale = nn.Parameter(torch.ones(()), requires_grad=learn_scale)

    @property
    def effective_step_size(self) -> Tensor:
        return self.scale.detach().abs() + EPS

    def grid(self) -> Grid:
        return through_zero(self.effective_step_size, signed=True)

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        self.scale.copy_(2 * weight.abs().mean() / self.limits[1] ** 0.5)

    def in_levels(self, weight: Tensor) -> Tensor:
        return weight * (1 / self.effective_step_size)

    def latent(self, levels: Tensor) -> Tensor:
        return levels * self.effective_step_size

    def forward(self, weight: Tensor) -> Tensor:
        low, high = self.limits
        return lsq(weight, self.scale, low, high, (weight.numel() * high) ** -0.5)


class LSQActivation(ActivationQuantizer):
    """Quantizer of an input `[N, ...]`."""

    def __init__(self, bits: int, signed: str | bool = "auto"):
        super().__init__(bits, signed)
        self.scale = nn.Parameter(torch.ones(()))

    def grid(self) -> Grid:
        return through_zero(self.scale.abs() + EPS, self.is_signed)

    def choose_scale(self, x: Tensor) -> None:
        self.scale.copy_(2 * x.abs().mean() / step_range(self.bits, self.is_signed)[1] ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        low, high = step_range(self.bits, self.is_signed)
        return lsq(x, self.scale, low, high, (max(1, math.prod(x.shape[1:])) * high) ** -0.5)


class LSQPolicy(Policy):
    """quantizer=lsq."""

    def __init__(self, section: "LSQ", learn_weight_scale: bool = True):
        super().__init__(section, learn_weight_scale)
        self.signed = section.activation.signed

    def weight(self, shape: torch.Size, bits: int) -> LSQWeight:
        return LSQWeight(bits, self.learn_weight_scale)

    def activation(self, layer: Layer, bits: int) -> LSQActivation:
        return LSQActivation(bits, self.signed)
