"""Where the interval of a quantized gradient ends: c = gamma max|G|, gamma the clip ratio of a layer.

"Toward INT4 Fixed-Point Training via Exploring Quantization Error for Gradients", Kim et al., ECCV 2024. Large gradients matter:
alpha is the share of all that counts as large, and the bound on their quantization error is least where

    R(gamma) = alpha / (2^b - 1),     R: share of all gradients that are clipped, |G| > gamma max|G|                 (2)

`LargeGradient` keeps gamma there: after every step gamma <- clip(gamma + beta sign(R - alpha / (2^b - 1))). The others are what
it is compared with.
"""

import math

import torch
from torch import Tensor, nn

from quantlab.quantizers.gradient import LEAST, clipped_count, largest_code, quantize_gradient, stochastic_codes


class Interval(nn.Module):
    """Base: a clip ratio that nothing changes.

    `clip_ratio`: gamma, a float32 scalar parameter, so that it travels with the model and, where it learns, over processes; no
    optimizer takes it. `large_share`: alpha, for what is observed.
    """

    def __init__(self, clip_ratio: float, large_share: float, learns: bool = False):
        super().__init__()
        self.clip_ratio = nn.Parameter(torch.tensor(clip_ratio), requires_grad=learns)
        self.large_share = large_share

    def quantize(self, gradient: Tensor, clip_ratio: Tensor, largest: Tensor, bits: int) -> Tensor:
        """G_q of a gradient (any shape) whose largest magnitude is `largest`."""
        return quantize_gradient(gradient, clip_ratio * largest, bits)

    def choose(self, gradient: Tensor, largest: Tensor, bits: int) -> None:
        """Set gamma for this gradient at once; through `.data`, since a layer that is called several times has it saved for the others."""

    def ratio_gradient(self, gradient: Tensor, clip_ratio: Tensor, largest: Tensor, bits: int) -> Tensor | None:
        """What back-propagation adds to `clip_ratio.grad`."""
        return None

    def update(self) -> None:
        """Learn from `clip_ratio.grad`, and clear it."""


class Fixed(Interval):
    """gamma as given: 1 is the range of all gradients (min_max)."""


class LargeGradient(Interval):
    """gamma follows condition (2).

    Back-propagation hands `clip_ratio` the gradient N (alpha / (2^b - 1) - R), N the number of elements, and `update` goes one
    step of beta against its sign. So it adds up over micro-batches and processes as every gradient does, and the sign is that of
    the share over all of them. Of an all-zero gradient it is zero.

    A layer with fewer than (2^b - 1) / alpha gradients cannot resolve the share: one clipped is already too many. Its gamma stays.
    init: `quantile` starts at the fixed point of the first batch; `search` is the released code's loop, which stops when a slow
    running mean of R passes the target and so overshoots.
    """

    def __init__(self, alpha: float, beta: float, low: float, high: float, init: str):
        super().__init__(high, alpha, learns=True)
        self.alpha, self.beta, self.low, self.high, self.init = alpha, beta, low, high, init
        self.is_resolved = True     # by the gradient that `choose` saw

    def target(self, bits: int) -> float:
        """The share of clipped gradients of condition (2)."""
        return self.alpha / (2**bits - 1)

    def resolves(self, elements: int, bits: int) -> bool:
        """Whether one of so many gradients is no more than the target share."""
        return elements * self.target(bits) >= 1

    def choose(self, gradient: Tensor, largest: Tensor, bits: int) -> None:
        self.is_resolved = self.resolves(gradient.numel(), bits)
        if not self.is_resolved or largest == 0:
            return
        search = {"quantile": quantile_ratio, "search": searched_ratio}[self.init]
        with torch.no_grad():
            self.clip_ratio.data.fill_(min(max(search(gradient.abs().flatten().float() / largest, self.target(bits)), self.low), self.high))

    def ratio_gradient(self, gradient: Tensor, clip_ratio: Tensor, largest: Tensor, bits: int) -> Tensor:
        elements = gradient.numel()
        if not self.resolves(elements, bits):
            return torch.zeros_like(clip_ratio)
        missing = elements * self.target(bits) - clipped_count(gradient, clip_ratio * largest)
        return (missing * (largest > 0)).to(clip_ratio.dtype)

    @torch.no_grad()
    def update(self) -> None:
        if self.clip_ratio.grad is not None:
            self.clip_ratio.sub_(self.beta * self.clip_ratio.grad.sign()).clamp_(self.low, self.high)
            self.clip_ratio.grad = None


def quantile_ratio(ratios: Tensor, target: float) -> float:
    """The smallest ratio beyond which no more than the share `target` of `ratios` (float [N], |G| / max|G|) lies."""
    beyond = math.floor(target * len(ratios))
    return float(ratios.topk(beyond + 1).values[-1])


def searched_ratio(ratios: Tensor, target: float, momentum: float = 0.999, step: float = 1e-3) -> float:
    """The released code's search: down from 1 by `step` until the running mean of R, which starts at 0, passes `target`."""
    ascending = ratios.sort().values
    mean, gamma = 0.0, 1.0
    while mean <= target and gamma > step:
        gamma -= step
        clipped = len(ascending) - int(torch.searchsorted(ascending, torch.tensor(gamma), right=True))
        mean = momentum * mean + (1 - momentum) * clipped / len(ascending)
    return gamma


class DSGC(Interval):
    """gamma that turns the gradient least: the cosine between G and G_q is largest ("Towards Unified INT8 Training for Convolutional
    Neural Networks", Zhu et al., CVPR 2020, Sec. 3.3).

    It minimises the error of all gradients. Chosen anew every `period` steps (the method asks), from CANDIDATES evenly spaced ratios,
    with rounding to nearest: our choice, where the paper searches by golden section.
    """

    CANDIDATES = 40

    def __init__(self, period: int, large_share: float):
        super().__init__(1.0, large_share)
        self.period = period

    @torch.no_grad()
    def choose(self, gradient: Tensor, largest: Tensor, bits: int) -> None:
        if largest == 0:
            return
        q, ratios = largest_code(bits), gradient.float().flatten() / largest
        candidates = [(i + 1) / self.CANDIDATES for i in range(self.CANDIDATES)]
        cosines = []
        for gamma in candidates:
            codes = (ratios * (q / gamma)).round_().clamp_(-q, q)
            cosines.append(ratios @ codes / codes.norm().clamp_min(LEAST))
        self.clip_ratio.data.fill_(candidates[int(torch.stack(cosines).argmax())])


class Piecewise(Interval):
    """Two ranges of b - 1 bits: gradients within max|G| / 2^shift have fine levels of their own, the others those of the whole range.

    As the authors' sibling code does it (IQB-like); shift 5: the narrow range is a thirty-second of the wide one. No clipping.
    """

    def __init__(self, shift: int, large_share: float):
        super().__init__(1.0, large_share)
        self.shift = shift

    def quantize(self, gradient: Tensor, clip_ratio: Tensor, largest: Tensor, bits: int) -> Tensor:
        q, wide = largest_code(bits - 1), largest.clamp_min(LEAST)
        narrow = wide * 2.0**-self.shift
        is_narrow = gradient.abs() <= narrow
        end = torch.where(is_narrow, narrow, wide)
        return (stochastic_codes(gradient, end, bits - 1) * (end / q)).to(gradient.dtype)


def build_interval(section) -> Interval:
    """Of the config's `quantizer.gradient` section."""
    if section.interval == "large_gradient":
        return LargeGradient(section.alpha, section.beta, section.gamma_min, section.gamma_max, section.init)
    if section.interval == "dsgc":
        return DSGC(section.period, section.alpha)
    if section.interval == "piecewise":
        return Piecewise(section.shift, section.alpha)
    return Fixed(section.gamma if section.interval == "fixed" else 1.0, section.alpha)
