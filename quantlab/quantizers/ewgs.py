"""EWGS: "Network Quantization with Element-wise Gradient Scaling", Lee, Kim, Ham, CVPR 2021 (arXiv 2104.00903).

    x_n = clip((x - l) / (u - l), 0, 1)                                                          (1)
    x_q = round((2^b - 1) x_n) / (2^b - 1);   weights become 2 (x_q - 1/2), inputs stay x_q      (2), (3)
    g_xn = g_xq (1 + delta sign(g_xq) (x_n - x_q))                                               (5)

l, u and a factor |s| on the layer's output are learned. delta = 0 is the straight-through estimator. The paper also
sets delta from the trace of the Hessian every ten epochs; here it is the constant that the paper gives as the
alternative.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quantlab.quantizers.autograd_function import QuantizerFunction
from quantlab.quantizers.integers import Grid
from quantlab.quantizers.policy import Layer, Policy
from quantlab.quantizers.trained import (
    LEAST_INTERVAL,
    ActivationQuantizer,
    IntervalWeightQuantizer,
    half_normal_deviation,
)

if TYPE_CHECKING:
    from quantlab.config.quantizers.ewgs import EWGS


class _EWGS(QuantizerFunction):
    @staticmethod
    def forward(x: Tensor, l: Tensor, u: Tensor, steps: float, delta: float) -> Tensor:
        return ((x - l) / (u - l).clamp_min(LEAST_INTERVAL)).clamp_(0, 1).mul_(steps).round_().div_(steps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, l, u, *ctx.constants = inputs
        ctx.save_for_backward(x, l, u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, l, u = ctx.saved_tensors
        steps, delta = ctx.constants
        length = (u - l).clamp_min(LEAST_INTERVAL)
        position = (x - l) / length
        x_n = position.clamp(0, 1)
        rounding_error = x_n - (x_n * steps).round_().div_(steps)
        scaled = (grad + delta * grad.abs() * rounding_error) * (position == x_n) / length
        grad_l = grad_u = None
        if ctx.needs_input_grad[1]:
            flat, along = scaled.flatten().to(u.dtype), x_n.flatten().to(u.dtype)  # half precision would overflow
            grad_u = -(flat @ along)
            grad_l = -flat.sum() - grad_u
        return scaled if ctx.needs_input_grad[0] else None, grad_l, grad_u, None, None


def ewgs(x: Tensor, l: Tensor, u: Tensor, bits: int, delta: float) -> Tensor:
    """x_q of Eq. (2) in [0, 1], a float tensor of x's shape (any); l and u: float tensors of one element, both learned
    or neither.

    The gradient of x passes where l <= x <= u, else it is 0.
    """
    return _EWGS.call(x, l, u, 2.0**bits - 1, delta)


def ewgs_grid(bits: int, centred: bool) -> Grid:
    """That of x_q, or of 2 (x_q - 1/2) if centred, which has no zero."""
    steps = torch.tensor(2.0**bits - 1)
    return Grid(2 / steps, steps / 2) if centred else Grid(1 / steps, torch.zeros(()))


class EWGSWeight(IntervalWeightQuantizer):
    """A latent weight's quantizer; one bit gives -1 and 1."""

    def __init__(self, bits: int, learn_scale: bool, delta: float):
        super().__init__(bits, learn_scale)
        self.delta = delta

    @property
    def effective_step_size(self) -> float:
        return 1.0 if self.bits == 1 else 2 / (2.0**self.bits - 1)  # 1 bit: half of the distance, as Eq. (8) has it

    def grid(self) -> Grid:
        return ewgs_grid(self.bits, centred=True)

    def above_lowest(self, weight: Tensor) -> Tensor:
        length = (self.upper - self.lower).detach().clamp_min(LEAST_INTERVAL)
        return (weight - self.lower.detach()) / length * (2.0**self.bits - 1)

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * ewgs(weight, self.lower, self.upper, self.bits, self.delta) - 1


class EWGSActivation(ActivationQuantizer):
    """Quantizer of an input. u = 3 standard deviations and l = min(x) of the first batch; a signed input's l is -u,
    our choice.
    """

    def __init__(self, bits: int, delta: float):
        super().__init__(bits)
        self.delta = delta
        self.lower = nn.Parameter(torch.tensor(0.0))
        self.upper = nn.Parameter(torch.tensor(1.0))

    def grid(self) -> Grid:
        return ewgs_grid(self.bits, centred=self.is_signed)

    def choose_scale(self, x: Tensor) -> None:
        self.upper.copy_(3 * half_normal_deviation(x, self.is_signed))
        self.lower.copy_(-self.upper if self.is_signed else x.min())

    def forward(self, x: Tensor) -> Tensor:
        x_q = ewgs(x, self.lower, self.upper, self.bits, self.delta)
        return 2 * x_q - 1 if self.is_signed else x_q


class EWGSPolicy(Policy):
    """quantizer=ewgs."""

    output_scale = True

    def __init__(self, section: "EWGS", learn_weight_scale: bool = True):
        super().__init__(section, learn_weight_scale)
        self.delta = section.delta

    def weight(self, shape: torch.Size, bits: int) -> EWGSWeight:
        return EWGSWeight(bits, self.learn_weight_scale, self.delta)

    def activation(self, layer: Layer, bits: int) -> EWGSActivation:
        return EWGSActivation(bits, self.delta)
