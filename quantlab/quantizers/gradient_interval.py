"""Where the interval of a quantized gradient ends: c = gamma max|G|, gamma the clip ratio of a layer.

"Toward INT4 Fixed-Point Training via Exploring Quantization Error for Gradients", Kim et al., ECCV 2024. Large
gradients matter: alpha is the share of all that counts as large, and the bound on their quantization error is least
where

    R(gamma) = alpha / (2^b - 1),     R: share of all gradients that are clipped, |G| > gamma max|G|                 (2)

`LargeGradient` keeps gamma there: after every step gamma <- clip(gamma + beta sign(R - alpha / (2^b - 1))). The others
are what it is compared with.

Throughout, a `gradient` has any shape, and `largest` is max|G|: a float32 scalar, or one of each channel that
broadcasts.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.quantizers.gradient_codes import LEAST, clipped_count, largest_code, quantize_gradient, stochastic_codes


class Interval(nn.Module):
    """Base: a clip ratio that nothing changes.

    `clip_ratio`: gamma, a float32 scalar buffer, so that it travels with the model and no optimizer takes it.
    `large_share`: alpha, for what is observed.

    `tally`: of an interval that learns, a leaf to which back-propagation adds `counts`, over micro-batches as well;
    None otherwise. It is no parameter, which an optimizer or `clip_grad_norm_` would take for one, and no buffer, which
    DDP would overwrite.
    """

    clip_ratio: Tensor

    def __init__(self, clip_ratio: float, large_share: float, learns: bool = False):
        super().__init__()
        self.register_buffer("clip_ratio", torch.tensor(clip_ratio))
        self.large_share = large_share
        self.tally = torch.zeros(2, requires_grad=True) if learns else None

    def _apply(self, fn: Any, recurse: bool = True) -> "Interval":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.clip_ratio = self.clip_ratio.float()  # half precision would lose steps of 1e-3
        if self.tally is not None:
            self.tally = torch.zeros(2, device=self.clip_ratio.device, requires_grad=True)
        return self

    def quantize(self, gradient: Tensor, clip_ratio: Tensor, largest: Tensor, bits: int) -> Tensor:
        """G_q."""
        return quantize_gradient(gradient, clip_ratio * largest, bits)

    def choose(self, gradient: Tensor, largest: Tensor, bits: int) -> None:
        """Set gamma for this gradient at once."""

    def counts(self, gradient: Tensor, clip_ratio: Tensor, largest: Tensor) -> Tensor | None:
        """What back-propagation adds to `tally.grad`: float32 [2]."""
        return None

    def update(self, bits: int) -> None:
        """Learn from `tally.grad`, and clear it."""


class Fixed(Interval):
    """gamma as given: 1 is the range of all gradients (min_max)."""


class LargeGradient(Interval):
    """gamma follows condition (2).

    Counted are the elements N and how many of them are clipped, and `update` goes one step of beta by the sign of their
    share R over all that has come since the last update: micro-batches and processes add up. Nothing is counted of a
    gradient that is all zero or not finite.

    With fewer than (2^b - 1) / alpha elements the share cannot be resolved: one clipped is already too many, none too
    few. gamma stays, which with the usual gamma = 1 is the range of all gradients (min_max). There the released code
    moves all the same, to and fro between 1 and one step below.

    init: `quantile` starts at the fixed point of the first batch; `search` is the released code's loop, which stops
    when a slow running mean of R passes the target and so overshoots. The defaults are the released code's, but for
    `quantile`.
    """

    def __init__(
        self, alpha: float = 1e-3, beta: float = 1e-3, low: float = 1e-3, high: float = 1.0, init: str = "quantile"
    ):
        super().__init__(high, alpha, learns=True)
        self.alpha, self.beta, self.low, self.high, self.init = alpha, beta, low, high, init

    def target(self, bits: int) -> float:
        """The share of clipped gradients of condition (2)."""
        return self.alpha / ((1 << bits) - 1)

    def fewest_elements(self, bits: int) -> int:
        """Of so many gradients one is no more than the target share."""
        return math.ceil(((1 << bits) - 1) / self.alpha * (1 - 1e-12))

    @torch.no_grad()
    def choose(self, gradient: Tensor, largest: Tensor, bits: int) -> None:
        if gradient.numel() >= self.fewest_elements(bits) and 0 < float(largest.max()) < math.inf:
            search = {"quantile": quantile_ratio, "search": searched_ratio}[self.init]
            ratios = (gradient.abs().float() / largest.clamp_min(LEAST)).flatten()
            self.clip_ratio.fill_(min(max(search(ratios, self.target(bits)), self.low), self.high))

    def counts(self, gradient: Tensor, clip_ratio: Tensor, largest: Tensor) -> Tensor:
        counted = ((largest > 0) & largest.isfinite()).sum() * (gradient.numel() // largest.numel())
        return torch.stack([counted, clipped_count(gradient, clip_ratio * largest)]).float()

    @torch.no_grad()
    def update(self, bits: int) -> None:
        if self.tally is not None and self.tally.grad is not None:
            elements, clipped = self.tally.grad
            direction = torch.sign(clipped - elements * self.target(bits)) * (elements >= self.fewest_elements(bits))
            self.clip_ratio.add_(direction, alpha=self.beta).clamp_(self.low, self.high)
            self.tally.grad = None


def quantile_ratio(ratios: Tensor, target: float) -> float:
    """The smallest ratio beyond which no more than the share `target` of `ratios` (float [N], |G| / max|G|) lies."""
    beyond = math.floor(target * len(ratios))
    return float(ratios.topk(beyond + 1).values[-1])


def searched_ratio(ratios: Tensor, target: float, momentum: float = 0.999) -> float:
    """The released code's search: from 1 against the sign of the running mean of R, which starts at 0, less `target`,
    by steps of 1 - momentum, until it is above. So the last step is one up. In float32, as there.
    """
    ascending = ratios.sort().values.cpu()
    mean, gamma, direction = torch.tensor(0.0), torch.tensor(1.0), torch.tensor(-1.0)
    while direction <= 0 and gamma > 0:
        clipped = len(ascending) - torch.searchsorted(ascending, gamma, right=True)
        mean = momentum * mean + (1 - momentum) * (clipped / len(ascending))
        direction = torch.sign(mean - target)
        gamma = gamma + (1 - momentum) * direction
    return float(gamma)


class DSGC(Interval):
    """gamma that turns the gradient least: the cosine between G and G_q is largest ("Towards Unified INT8 Training for
    Convolutional Neural Networks", Zhu et al., CVPR 2020, Sec. 3.3).

    It minimises the error of all gradients. Chosen anew every `period` steps (the method asks), from CANDIDATES evenly
    spaced ratios, with rounding to nearest: our choice, where the paper searches by golden section.

    `deviation`: d_c = 1 - cos(G, G_q) of the last choice, for `learning_rate_scale`; a float32 scalar that no
    checkpoint holds.
    """

    CANDIDATES = 40
    deviation: Tensor

    def __init__(self, period: int, large_share: float):
        super().__init__(1.0, large_share)
        self.period = period
        self.register_buffer("deviation", torch.tensor(0.0), persistent=False)

    @torch.no_grad()
    def choose(self, gradient: Tensor, largest: Tensor, bits: int) -> None:
        if not 0 < float(largest.max()) < math.inf:
            return
        q, values, unit = largest_code(bits), gradient.float() / largest.max(), largest.clamp_min(LEAST) / largest.max()
        candidates = [(i + 1) / self.CANDIDATES for i in range(self.CANDIDATES)]
        cosines = []
        for gamma in candidates:
            quantized = (values * (q / (gamma * unit))).round_().clamp_(-q, q).mul_(unit)
            cosines.append(values.flatten() @ quantized.flatten() / (values.norm() * quantized.norm()).clamp_min(LEAST))
        best = int(torch.stack(cosines).argmax())
        self.clip_ratio.fill_(candidates[best])
        self.deviation.copy_((1 - cosines[best]).clamp_min(0))


def learning_rate_scale(deviation: float, alpha: float, beta: float) -> float:
    """phi(d_c) = max(e^(-alpha d_c), beta): what a layer's learning rate is multiplied by, so that gradients that
    quantization has turned move its weight less (Deviation Counteractive Learning Rate Scaling, Zhu et al.; there alpha
    = 20, beta = 0.1).
    """
    return max(math.exp(-alpha * deviation), beta)


class Piecewise(Interval):
    """Two ranges of b - 1 bits: gradients within max|G| / 2^shift have fine levels of their own, the others those of
    the whole range.

    As the authors' sibling code does it (IQB-like); shift 5: the narrow range is a thirty-second of the wide one. No
    clipping.
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
