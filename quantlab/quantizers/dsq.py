"""DSQ: "Differentiable Soft Quantization", Gong et al., ICCV 2019 (arXiv 1908.05033).

    Delta = (u - l) / (2^b - 1);   x lies in interval i, whose middle is m_i = l + (i + 1/2) Delta          (3), (4)
    phi(x) = s tanh(k (x - m_i)),   s = 1 / (1 - alpha),   k = ln(2 / alpha - 1) / Delta                    (5) to (8)
    forward: sign(phi); backward: the derivative of phi;   Q(x) = l + Delta (i + (sign(phi) + 1) / 2)       (9)

alpha, l and u are learned: the smaller alpha, the steeper phi, and at 0 it is the step itself.
Half way between two levels, where the paper is silent, the even one is taken.
"""

import torch
from torch import Tensor, nn

from quantlab.quantizers.integers import Grid
from quantlab.quantizers.policy import Layer, Policy
from quantlab.quantizers.trained import (
    LEAST_INTERVAL,
    ActivationQuantizer,
    IntervalWeightQuantizer,
    clip,
    half_normal_deviation,
    straight_through,
)

ALPHA_RANGE = 1e-3, 0.5  # where the learned alpha is held; the paper gives 0.5 as the most


def dsq(x: Tensor, l: Tensor, u: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """Q(x) of Eq. (9), a float tensor of x's shape (any); l, u, alpha: float tensors of one element.

    The gradient of x passes where l <= x <= u; where it is clipped, the end gets it.
    """
    u = torch.where(u >= l + LEAST_INTERVAL, u, l + LEAST_INTERVAL)
    delta = (u - l) / (2.0**bits - 1)
    along = (clip(x, l, u) - l) / delta  # 0 .. 2^b - 1
    interval = along.detach().floor().clamp_(max=2.0**bits - 2)
    alpha = clip(alpha, *ALPHA_RANGE)
    phi = torch.tanh((2 / alpha - 1).log() * (along - interval - 0.5)) / (1 - alpha)
    return l + delta * straight_through(along.detach().round(), interval + (phi + 1) / 2)


def dsq_grid(l: Tensor, u: Tensor, bits: int) -> Grid:
    """l + Delta i as Delta (i + l / Delta): the same up to float's rounding."""
    delta = (u - l).detach().clamp_min(LEAST_INTERVAL) / (2.0**bits - 1)
    return Grid(delta, -l.detach() / delta)


class DSQWeight(IntervalWeightQuantizer):
    """A latent weight's quantizer; alpha = 0.2 at the start, as the interval our choice."""

    def __init__(self, bits: int, learn_scale: bool):
        super().__init__(bits, learn_scale)
        self.alpha = nn.Parameter(torch.tensor(0.2))  # moves no transition point

    @property
    def effective_step_size(self) -> Tensor:
        return self.step / 2 if self.bits == 1 else self.step  # 1 bit: half of the distance, as Eq. (8) has it

    def grid(self) -> Grid:
        return dsq_grid(self.lower, self.upper, self.bits)

    def forward(self, weight: Tensor) -> Tensor:
        return dsq(weight, self.lower, self.upper, self.alpha, self.bits)


class DSQActivation(ActivationQuantizer):
    """Quantizer of an input. u = 3 standard deviations of the first batch; l = 0, or -u where the input is signed
    (our choice).
    """

    def __init__(self, bits: int):
        super().__init__(bits)
        self.lower = nn.Parameter(torch.tensor(0.0))
        self.upper = nn.Parameter(torch.tensor(1.0))
        self.alpha = nn.Parameter(torch.tensor(0.2))

    def grid(self) -> Grid:
        return dsq_grid(self.lower, self.upper, self.bits)

    def choose_scale(self, x: Tensor) -> None:
        self.upper.copy_(3 * half_normal_deviation(x, self.is_signed))
        self.lower.copy_(-self.upper if self.is_signed else torch.zeros_like(self.upper))

    def forward(self, x: Tensor) -> Tensor:
        return dsq(x, self.lower, self.upper, self.alpha, self.bits)


class DSQPolicy(Policy):
    """quantizer=dsq."""

    kind = "training"

    def weight(self, shape: torch.Size, bits: int) -> DSQWeight:
        return DSQWeight(bits, self.learn_weight_scale)

    def activation(self, layer: Layer, bits: int) -> DSQActivation:
        return DSQActivation(bits)
