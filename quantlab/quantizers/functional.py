"""Uniform affine quantization: the maths, on plain tensors.

A real x is stored as an integer code q with a scale s > 0 and an integer zero point z:

    q  = clamp(round(x / s) + z, q_min, q_max)          x^ = s (q - z)                                             (1)

Asymmetric codes run over 0 .. 2^b - 1; symmetric ones over -2^(b-1) .. 2^(b-1) - 1 with z = 0. Zero is always exactly
representable. Rounding is half to even (torch.round).
"""

from typing import Any

import torch
from torch import Tensor

from quantlab.quantizers.autograd_function import QuantizerFunction


def code_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest code of `bits` bits: (0, 2^b - 1), or (-2^(b-1), 2^(b-1) - 1) if symmetric."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def affine_parameters(low: Tensor, high: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point that cover [low, high] (float tensors of one shape, low <= 0 <= high).

    Asymmetric: s = (high - low) / (2^b - 1), z = round(-low / s). Symmetric: s = max(-low, high) / (2^(b-1) - 1), z =
    0. Both returned as float tensors of that shape. A range of width zero gets s = 1, under which zero stays zero.
    """
    q_min, q_max = code_range(bits, symmetric)
    if symmetric:
        scale = torch.maximum(-low, high) / q_max
    else:
        scale = (high - low) / (q_max - q_min)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero_point = torch.zeros_like(scale) if symmetric else torch.round(-low / scale)
    return scale, zero_point


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, q_min: int, q_max: int) -> Tensor:
    """Codes of x as a float tensor of x's shape, Eq. (1) left; scale and zero_point broadcast against x."""
    return (torch.round(x / scale) + zero_point).clamp_(q_min, q_max)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Real values of codes, Eq. (1) right."""
    return (codes - zero_point) * scale


class _FakeQuantize(QuantizerFunction):
    # One function instead of the composition of round, clamp and two products: its input is saved for the backward pass
    # instead of five tensors. Masks are floats, since products of bool and float are slow on CPUs.
    @staticmethod
    def forward(x: Tensor, scale: Tensor, zero_point: Tensor, q_min: int, q_max: int) -> Tensor:
        return (x / scale).round_().add_(zero_point).clamp_(q_min, q_max).sub_(zero_point).mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, zero_point, ctx.q_min, ctx.q_max = inputs
        ctx.save_for_backward(x, scale, zero_point)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        ratio = x / scale
        code = torch.round(ratio).add_(zero_point)
        clamped = code.clamp(ctx.q_min, ctx.q_max)
        inside = code.eq_(clamped)
        grad_x = grad * inside if ctx.needs_input_grad[0] else None
        grad_scale = None
        if ctx.needs_input_grad[1]:
            grad_scale = clamped.sub_(zero_point).addcmul_(ratio, inside, value=-1).mul_(grad).sum_to_size(scale.shape)
        return grad_x, grad_scale, None, None, None


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, q_min: int, q_max: int) -> Tensor:
    """x^ of Eq. (1), differentiable in x and in the scale with the straight-through estimator of round.

    With v = round(x/s) + z:  dx^/dx = 1 where q_min <= v <= q_max, else 0;
    dx^/ds = (q - z) - x/s inside that range and q - z outside (Esser et al. 2020, LSQ, Eq. 3).

    x: float tensor of any shape; scale, zero_point: float tensors that broadcast against it.
    """
    return _FakeQuantize.call(x, scale, zero_point, q_min, q_max)


def min_max_range(x_RN: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each row of x [R, N], widened to contain zero: two tensors [R]."""
    return x_RN.amin(1).clamp(max=0), x_RN.amax(1).clamp(min=0)


def lp_range(
    x_RN: Tensor,
    bits: int,
    symmetric: bool,
    p: float = 2.4,
    candidates: int = 80,
    ends: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The range of each row of x [R, N] whose quantization error sum |x^ - x|^p is least: two tensors [R].

    Searched over `candidates` ranges, the min-max range shrunk by 1, 0.99, 0.98, ... (BRECQ and Q-Diffusion: 80
    candidates, p = 2.4). Both ends shrink together, so the zero point moves little.

    ends: the min-max range (two tensors [R]) of what x is only a sample of. It bounds the candidates and counts no
    further: an extreme that counted as much as every value of a fair sample would stretch the range.
    """
    low, high = min_max_range(x_RN) if ends is None else ends
    best_low, best_high = low.clone(), high.clone()
    best_error = torch.full_like(low, float("inf"))
    q_min, q_max = code_range(bits, symmetric)
    for shrink in range(candidates):
        factor = 1 - shrink / 100
        scale, zero_point = affine_parameters(low * factor, high * factor, bits, symmetric)
        scale, zero_point = scale[:, None], zero_point[:, None]
        x_hat = dequantize(quantize(x_RN, scale, zero_point, q_min, q_max), scale, zero_point)
        error = x_hat.sub_(x_RN).abs_().pow_(p).sum(1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_low = torch.where(better, low * factor, best_low)
        best_high = torch.where(better, high * factor, best_high)
    return best_low, best_high


def search_range(
    x_RN: Tensor, bits: int, symmetric: bool, search: str, p: float, ends: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each row of x [R, N] by `search` (min_max or lp): two float tensors [R]; ends: as in
    `lp_range`.
    """
    ends = min_max_range(x_RN) if ends is None else ends
    low, high = ends if search == "min_max" else lp_range(x_RN, bits, symmetric, p, ends=ends)
    return affine_parameters(low, high, bits, symmetric)
