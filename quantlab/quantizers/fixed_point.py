"""Fixed-point quantizers with a learned scale: the "modified LSQ" of transition-rate scheduling.

"Scheduling Weight Transitions for Quantization-Aware Training", Lee et al., ICCV 2025, Sec. 4.3, Eq. (13):

    x_q = round(clip(gamma x / s, alpha, beta)) / gamma
    weights      (alpha, beta, gamma) = (-2^(b-1), 2^(b-1) - 1, 2^(b-1))      2 bits: -1, -0.5, 0, 0.5
    activations  (alpha, beta, gamma) = (0, 2^b - 1, 2^b)                     2 bits: 0, 0.25, 0.5, 0.75
    1 bit        weights sign(x / s): -1, 1; activations (0, 1, 1): 0, 1

Unlike LSQ's the result is not multiplied by s again: it is a fixed-point number, and a normalization layer after every
quantized layer takes care of the size; without one, an output scale is learned for the layer (`output_scale`).

At one bit the sign of a weight of zero is positive; in the released code, which rounds (clip(w / s, -1, 1) + 1) / 2, it
is negative.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quantlab.quantizers.autograd_function import QuantizerFunction
from quantlab.quantizers.integers import SIGN, Grid, through_zero
from quantlab.quantizers.policy import Layer, Policy
from quantlab.quantizers.trained import (
    ActivationQuantizer,
    LatentWeightQuantizer,
    clip,
    deviation,
    for_compiler,
    half_normal_deviation,
    straight_through,
)

if TYPE_CHECKING:
    from quantlab.config.quantizers.fixed_point import FixedPoint

EPS = 1e-6  # added to |s|, as the released code does


def clip_range(bits: int, signed: bool) -> tuple[float, float, float]:
    """alpha, beta and gamma of Eq. (13); `signed`: weights, and inputs with negative values."""
    if signed:
        half = 2.0 ** (bits - 1)
        return (-1.0, 1.0, 1.0) if bits == 1 else (-half, half - 1, half)
    return (0.0, 1.0, 1.0) if bits == 1 else (0.0, 2.0**bits - 1, 2.0**bits)


def fixed_point_grid(bits: int, signed: bool) -> Grid:
    """That of x_q: multiples of 1 / gamma, or -1 and 1."""
    gamma = clip_range(bits, signed)[2]
    return SIGN if bits == 1 and signed else through_zero(torch.tensor(1 / gamma), signed)


class _FixedPoint(QuantizerFunction):
    # One function, which saves its input: uncompiled, torch's operations (`_composed`) would save four tensors and take
    # twice as long.
    @staticmethod
    def forward(x: Tensor, scale: Tensor, bits: int, signed: bool) -> Tensor:
        alpha, beta, gamma = clip_range(bits, signed)
        v = x * (gamma / (scale.abs() + EPS))
        if bits == 1 and signed:
            return torch.where(v >= 0, 1.0, -1.0).to(v.dtype)
        return v.clamp_(alpha, beta).round_().div_(gamma)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, bits, signed = inputs
        ctx.save_for_backward(x, scale)
        ctx.limits = clip_range(bits, signed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        alpha, beta, gamma = ctx.limits
        size = scale.abs() + EPS
        v = x * (gamma / size)
        passed = grad * v.clamp(alpha, beta).eq_(v)
        grad_scale = None
        if ctx.needs_input_grad[1]:
            product = passed.flatten().to(scale.dtype) @ v.flatten().to(scale.dtype)  # half precision would overflow
            grad_scale = product.reshape(scale.shape) * (-scale.sign() / (gamma * size))
        return passed.div_(size) if ctx.needs_input_grad[0] else None, grad_scale, None, None


def _composed(x: Tensor, scale: Tensor, bits: int, signed: bool) -> Tensor:
    alpha, beta, gamma = clip_range(bits, signed)
    v = x.to(scale.dtype) * (gamma / (scale.abs() + EPS))
    clipped = clip(v, alpha, beta)
    levels = torch.where(v >= 0, 1.0, -1.0) if bits == 1 and signed else clipped.round()
    return (straight_through(levels.detach(), clipped) / gamma).to(x.dtype)


def fixed_point(x: Tensor, scale: Tensor, bits: int, signed: bool) -> Tensor:
    """x_q of Eq. (13), a float tensor of x's shape (any). scale: a float tensor of one element.

    Straight-through for round and sign only; the rest is differentiated: dx_q/dx = 1/|s| where alpha <= gamma x/s <=
    beta, else 0, and dx_q/ds = -x sign(s)/s^2 there, else 0 (as the released code, and unlike LSQ, whose gradient has a
    rounding term).
    """
    return (
        for_compiler(_composed, x, scale, bits, signed)
        if torch.compiler.is_compiling()
        else _FixedPoint.call(x, scale, bits, signed)
    )


class FixedPointWeight(LatentWeightQuantizer):
    """A latent weight's quantizer. `scale` is set by `calibrate` and then learned or frozen.

    Under transition-rate scheduling it is frozen: weights could otherwise transit without moving themselves (footnote
    2).
    """

    def __init__(self, bits: int, learn_scale: bool):
        super().__init__(bits)
        self.is_sign = bits == 1
        self.scale = nn.Parameter(torch.ones(()), requires_grad=learn_scale)

    @property
    def limits(self) -> tuple[float, float]:
        """alpha and beta."""
        return clip_range(self.bits, signed=True)[:2]

    @property
    def effective_step_size(self) -> float:
        return 0.5 if self.is_sign else 1 / clip_range(self.bits, signed=True)[2]

    def grid(self) -> Grid:
        return fixed_point_grid(self.bits, signed=True)

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        """s = 3 std(w), as the released code."""
        self.scale.copy_(3 * deviation(weight))

    def in_levels(self, weight: Tensor) -> Tensor:
        return weight * (clip_range(self.bits, signed=True)[2] / (self.scale.detach().abs() + EPS))

    def latent(self, levels: Tensor) -> Tensor:
        return levels * ((self.scale.detach().abs() + EPS) / clip_range(self.bits, signed=True)[2])

    def forward(self, weight: Tensor) -> Tensor:
        return fixed_point(weight, self.scale, self.bits, signed=True)


class FixedPointActivation(ActivationQuantizer):
    """Quantizer of an input; its scale is learned, from three standard deviations of the first batch (released code). A
    signed input, which the paper does not have, gets the weights' levels.
    """

    def __init__(self, bits: int, signed: str | bool = "auto"):
        super().__init__(bits, signed)
        self.scale = nn.Parameter(torch.ones(()))

    def grid(self) -> Grid:
        return fixed_point_grid(self.bits, self.is_signed)

    def choose_scale(self, x: Tensor) -> None:
        self.scale.copy_(3 * half_normal_deviation(x, self.is_signed))

    def forward(self, x: Tensor) -> Tensor:
        return fixed_point(x, self.scale, self.bits, self.is_signed)


class FixedPointPolicy(Policy):
    """quantizer=fixed_point."""

    def __init__(self, section: "FixedPoint", learn_weight_scale: bool = True):
        super().__init__(section, learn_weight_scale)
        self.signed, self.output_scale = section.activation.signed, section.output_scale

    def weight(self, shape: torch.Size, bits: int) -> FixedPointWeight:
        return FixedPointWeight(bits, self.learn_weight_scale)

    def activation(self, layer: Layer, bits: int) -> FixedPointActivation:
        return FixedPointActivation(bits, self.signed)
