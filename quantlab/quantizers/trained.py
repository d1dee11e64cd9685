"""What training asks of a quantizer: the bases of those in fixed_point, lsq, ewgs, dsq and binary.

Gradients pass a clip at both of its ends, in all of them, compiled or not: `clip`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantlab.errors import RunError
from quantlab.quantizers.autograd_function import is_transformed
from quantlab.quantizers.base import Quantizer, WeightQuantizer

LEAST_SPREAD = 1e-3  # of values, relative to their size, from which their deviation tells a scale
LEAST_INTERVAL = 1e-6  # of a learned interval: our choice, its ends might meet


def deviation(x: Tensor) -> Tensor:
    """Standard deviation of x (any shape), that of n - 1 as in the released code of TRS, LBT and EWGS; of values that
    hardly differ, or of one value, their root mean square: our choice, an interval of some deviations around zero would
    clip all of a constant, and no gradient would reach it.
    """
    spread, size = x.std(correction=min(1, x.numel() - 1)), x.square().mean().sqrt()
    return torch.where(spread > LEAST_SPREAD * size, spread, size)


def clip(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """x clipped to [low, high], whose gradient x gets where low <= x <= high, both ends included; ends that are tensors
    get the rest.

    So `torch.clamp` was when the papers' code was written. What it gives at the ends has changed since, and after a
    ReLU many inputs are at one: here it is the same under every version, compiled or not.
    """
    return torch.where(x < low, low, torch.where(x > high, high, x))


def straight_through(levels: Tensor, x: Tensor) -> Tensor:
    """`levels` (finite, without a gradient), whose gradient x gets as if it were x itself."""
    return levels + (x - x.detach())


def for_compiler(composed: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """`composed(*arguments)`, a quantizer made of torch's own operations, which a compiler fuses with their neighbours.
    Of it only the input is kept: left to itself, the compiler keeps masks, and writing them takes longer than all the
    rest.

    Raises RunError inside a transform of torch.func.
    """
    is_transformed()
    output: Tensor = checkpoint(composed, *arguments, use_reentrant=False, preserve_rng_state=False)
    return output


class LatentWeightQuantizer(WeightQuantizer):
    """Quantizer of a latent weight, seen in units of its levels: a step from one level to the next is 1.

    A subclass gives `limits`, `in_levels`, `latent`, `effective_step_size`, `calibrate` and `forward`. Levels are
    integers from -128 to 127, or -1 and 1 where `is_sign`.
    """

    is_sign = False

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest level, where normalized weights are clipped."""
        return -(2.0 ** (self.bits - 1)), 2.0 ** (self.bits - 1) - 1

    @property
    def transition_points(self) -> list[float]:
        """Where the normalized weight's level changes: halves; 0 between -1 and 1."""
        low, high = self.limits
        return [0.0] if self.is_sign else [low + 0.5 + i for i in range(int(high - low))]

    @property
    def effective_step_size(self) -> float | Tensor:
        """delta: by how much the quantized weight moves when its level moves by one.

        A sign's levels are two apart, and Eq. (8) of the transition-rate paper counts half of their distance: delta / 2
        there. A layer's average effective step size is then the distance of neighbouring quantized weights times the
        transition rate.
        """
        raise NotImplementedError  # depends on what the quantized weight is

    def in_levels(self, weight: Tensor) -> Tensor:
        """The weight in units of levels, not clipped, without a graph."""
        raise NotImplementedError  # depends on the scale

    def latent(self, levels: Tensor) -> Tensor:
        """The latent weight in the middle of each level's bin: the inverse of `in_levels` (`levels`: any float
        tensor).
        """
        raise NotImplementedError  # depends on the scale

    def normalized(self, weight: Tensor) -> Tensor:
        """w_n of Eq. (1) in units of levels, clipped to `limits`."""
        return self.in_levels(weight.detach()).clamp_(*self.limits)

    def discrete(self, weight: Tensor) -> Tensor:
        """w_d of Eq. (2): what transitions are counted on. A float tensor of integers, of the weight's shape."""
        if self.is_sign:
            return torch.where(self.in_levels(weight.detach()) >= 0, 1.0, -1.0)
        return self.normalized(weight).round_()

    def distance_to_transition_point(self, weight: Tensor) -> Tensor:
        """Of every normalized weight, 0 to 0.5 in units of the distance between levels: |w_n| / 2 for a sign, whose
        levels are two apart, else 0.5 - |w_n - round(w_n)|; a weight that is clipped, or on a level, is at 0.5.

        (The released code's value for one bit is larger by 0.5.)
        """
        w_n = self.normalized(weight)
        return w_n.abs() / 2 if self.is_sign else 0.5 - (w_n - w_n.round()).abs()


class IntervalWeightQuantizer(LatentWeightQuantizer):
    """One whose levels divide a learned interval [l, u] evenly; l = -3 std(w), u = 3 std(w) at the start."""

    def __init__(self, bits: int, learn_scale: bool):
        super().__init__(bits)
        self.lower = nn.Parameter(torch.tensor(-1.0), requires_grad=learn_scale)
        self.upper = nn.Parameter(torch.tensor(1.0), requires_grad=learn_scale)

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        self.upper.copy_(3 * deviation(weight))
        self.lower.copy_(-self.upper)

    @property
    def step(self) -> Tensor:
        """Distance of neighbouring transition points, in units of the weight."""
        return (self.upper - self.lower).detach().clamp_min(LEAST_INTERVAL) / (2.0**self.bits - 1)

    def above_lowest(self, weight: Tensor) -> Tensor:
        """The weight in units of levels above the lowest: 0 to 2^b - 1 inside the interval. As `forward` computes it:
        what is half way between two levels must not be rounded otherwise.
        """
        return (weight - self.lower.detach()) / self.step

    def in_levels(self, weight: Tensor) -> Tensor:
        return self.above_lowest(weight) + self.limits[0]  # 0 .. 2^b - 1, shifted into a signed byte

    def discrete(self, weight: Tensor) -> Tensor:
        return self.above_lowest(weight.detach()).clamp_(0, 2.0**self.bits - 1).round_() + self.limits[0]

    def latent(self, levels: Tensor) -> Tensor:
        return (levels - self.limits[0]) * self.step + self.lower.detach()


class ActivationQuantizer(Quantizer):
    """Quantizer of a layer's input. `is_signed`: whether its levels reach below zero; decided by `calibrate` where
    `signed` is "auto": when the first batch holds a negative value, as after a linear bottleneck or a LayerNorm.

    A subclass gives `choose_scale` and `forward`.
    """

    signed: Tensor

    def __init__(self, bits: int, signed: str | bool = "auto"):
        super().__init__(bits)
        self.asked = signed
        self.register_buffer("signed", torch.tensor(signed is True))
        self.is_signed = signed is True  # the buffer's value, known without asking the device

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Choose sign and scale for the first batch of inputs (any shape). Raises RunError if it is empty."""
        require_values(x)
        if self.asked == "auto":
            self.is_signed = bool((x < 0).any())
            self.signed.fill_(self.is_signed)
        self.choose_scale(x)

    def choose_scale(self, x: Tensor) -> None:
        raise NotImplementedError  # every paper has its own initial scale

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.is_signed = bool(self.signed)


def require_values(x: Tensor) -> None:
    """Raises RunError for an empty batch, which tells no scale."""
    if not x.numel():
        raise RunError(f"calibration: got an empty batch, of shape {list(x.shape)}, allowed: one input or more")


def half_normal_deviation(x: Tensor, is_signed: bool) -> Tensor:
    """`deviation` of x (any shape); of a non-negative x, std(x) / sqrt(1 - 2/pi): of the normal whose positive half x
    would be.
    """
    return deviation(x) if is_signed else deviation(x) / (1 - 2 / torch.pi) ** 0.5
