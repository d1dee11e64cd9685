"""Weights that are standardized before they are used (timm's StdConv2d, Qiao et al. 2019, "Weight Standardization",
arXiv 1903.10520; ScaledStdConv2d of NF-ResNets, Brock et al. 2021, arXiv 2101.08692), and their quantizer.

The latent weight is the parameter; what is quantized is its standardized form, as the product takes it. No paper here
does so; we chose it because it is the function that the network computes. Transitions are those of the quantized
weight, so scheduling counts what it is meant to count; but mean and variance are those of a whole output channel, so a
weight may transit because its neighbours moved. There is no way back from a level to one latent weight, so the cures
for oscillation, which move latent weights, are refused.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.quantizers.integers import Grid
from quantlab.quantizers.trained import LatentWeightQuantizer


@dataclass
class WeightStandardization:
    """Of a weight `[O, ...]`: every output channel with mean 0 and variance 1 (plus `eps`), times `scale` and the
    learned `gain` `[O, 1, 1, 1]`, if there is one.
    """

    eps: float
    scale: float = 1.0
    gain: nn.Parameter | None = None

    def __call__(self, weight: Tensor) -> Tensor:
        size = None if self.gain is None else (self.gain * self.scale).view(-1)
        rows = weight.reshape(1, weight.shape[0], -1)
        return F.batch_norm(rows, None, None, weight=size, training=True, momentum=0.0, eps=self.eps).reshape_as(weight)


class StandardizedWeightQuantizer(LatentWeightQuantizer):
    """`quantizer` of the standardized weight, as a quantizer of the parameter behind it."""

    def __init__(self, quantizer: LatentWeightQuantizer, standardize: WeightStandardization):
        super().__init__(quantizer.bits)
        self.quantizer, self.standardize = quantizer, standardize
        self.is_sign = quantizer.is_sign

    @property
    def limits(self) -> tuple[float, float]:
        return self.quantizer.limits

    @property
    def effective_step_size(self) -> float | Tensor:
        return self.quantizer.effective_step_size

    def grid(self) -> Grid:
        return self.quantizer.grid()

    def calibrate(self, weight: Tensor) -> None:
        self.quantizer.calibrate(self.standardize(weight).detach())

    def in_levels(self, weight: Tensor) -> Tensor:
        return self.quantizer.in_levels(self.standardize(weight).detach())

    def forward(self, weight: Tensor) -> Tensor:
        return self.quantizer(self.standardize(weight))
