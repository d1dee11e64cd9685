"""Learned clipping values, for training: the forward quantizers of low-bit fixed-point training (Kim et al., ECCV
2024).

    weights          Q_w = s round(clip(w / s, -1, 1) L) / L,   L = 2^(b-1) - 1: 2^b - 1 levels, zero among them
    inputs >= 0      Q_a = u round(clip(x / u, 0, 1) (2^b - 1)) / (2^b - 1)
    signed inputs    as the weights, with u

s and u are learned with straight-through rounding; their gradient goes through the division and the product, and is not
scaled: with the step s / L this is LSQ's quantizer on symmetric levels. They start at three standard deviations (of the
half-normal that fits, for inputs >= 0), as in the released code. That differs in two points: half way between two
signed levels it takes the odd one, ours the even one; and under a negative s its weights change their sign, ours do
not.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantlab.quantizers.integers import Grid, through_zero
from quantlab.quantizers.lsq import EPS, lsq
from quantlab.quantizers.policy import Layer, Policy
from quantlab.quantizers.trained import ActivationQuantizer, LatentWeightQuantizer, deviation, half_normal_deviation

if TYPE_CHECKING:
    from quantlab.config.quantizers.learned_clipping import LearnedClipping


class ClippedWeight(LatentWeightQuantizer):
    """A latent weight's quantizer of 2 bits or more; `clipping_value` is s."""

    def __init__(self, bits: int, learn_scale: bool):
        super().__init__(bits)
        self.clipping_value = nn.Parameter(torch.ones(()), requires_grad=learn_scale)

    @property
    def limits(self) -> tuple[float, float]:
        largest = 2.0 ** (self.bits - 1) - 1
        return -largest, largest

    @property
    def effective_step_size(self) -> Tensor:
        return self.clipping_value.detach().abs() / self.limits[1] + EPS

    def grid(self) -> Grid:
        return through_zero(self.effective_step_size, signed=True)

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        self.clipping_value.copy_(3 * deviation(weight))

    def in_levels(self, weight: Tensor) -> Tensor:
        return weight * (1 / self.effective_step_size)

    def latent(self, levels: Tensor) -> Tensor:
        return levels * self.effective_step_size

    def forward(self, weight: Tensor) -> Tensor:
        low, high = self.limits
        return lsq(weight, self.clipping_value / high, low, high, 1.0)


class ClippedActivation(ActivationQuantizer):
    """Quantizer of an input; `clipping_value` is u."""

    def __init__(self, bits: int, signed: str | bool = "auto"):
        super().__init__(bits, signed)
        self.clipping_value = nn.Parameter(torch.ones(()))

    @property
    def levels(self) -> tuple[float, float]:
        """The lowest and the highest level."""
        return (1 - 2.0 ** (self.bits - 1), 2.0 ** (self.bits - 1) - 1) if self.is_signed else (0.0, 2.0**self.bits - 1)

    def grid(self) -> Grid:
        return through_zero(self.clipping_value.abs() / self.levels[1] + EPS, self.is_signed)

    def choose_scale(self, x: Tensor) -> None:
        self.clipping_value.copy_(3 * half_normal_deviation(x, self.is_signed))

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.levels
        return lsq(x, self.clipping_value / high, low, high, 1.0)


class LearnedClippingPolicy(Policy):
    """quantizer=learned_clipping."""

    def __init__(self, section: "LearnedClipping", learn_weight_scale: bool = True):
        super().__init__(section, learn_weight_scale)
        self.signed = section.activation.signed

    def weight(self, shape: torch.Size, bits: int) -> ClippedWeight:
        return ClippedWeight(bits, self.learn_weight_scale)

    def activation(self, layer: Layer, bits: int) -> ClippedActivation:
        return ClippedActivation(bits, self.signed)
