"""Fixed-point quantizers with a learned scale: the "modified LSQ" of transition-rate scheduling.

"Scheduling Weight Transitions for Quantization-Aware Training", Lee et al., ICCV 2025, Sec. 4.3, Eq. (13):

    x_q = round(clip(gamma x / s, alpha, beta)) / gamma
    weights      (alpha, beta, gamma) = (-2^(b-1), 2^(b-1) - 1, 2^(b-1))      2 bits: -1, -0.5, 0, 0.5
    activations  (alpha, beta, gamma) = (0, 2^b - 1, 2^b)                     2 bits: 0, 0.25, 0.5, 0.75
    1 bit        weights sign(x / s): -1, 1; activations (0, 1, 1): 0, 1

Unlike LSQ's the result is not multiplied by s again: it is a fixed-point number, and a normalization layer after every
quantized layer takes care of the size.
"""

import math

import torch
from torch import Tensor, nn

EPS = 1e-6      # added to |s|, as the released code does


def clip_range(bits: int, signed: bool) -> tuple[float, float, float]:
    """alpha, beta and gamma of Eq. (13); `signed`: weights."""
    if signed:
        half = 2.0 ** (bits - 1)
        return (-1.0, 1.0, 1.0) if bits == 1 else (-half, half - 1, half)
    return (0.0, 1.0, 1.0) if bits == 1 else (0.0, 2.0**bits - 1, 2.0**bits)


def discretize(x: Tensor, scale: Tensor, bits: int, signed: bool) -> Tensor:
    """w_d of Eq. (2): the integer levels of x, a float tensor of its shape. One signed bit: -1 or 1 (zero counts as 1)."""
    alpha, beta, gamma = clip_range(bits, signed)
    v = x * (gamma / (scale.abs() + EPS))
    if bits == 1 and signed:
        return torch.where(v >= 0, 1.0, -1.0)
    return v.clamp_(alpha, beta).round_()


def normalize(x: Tensor, scale: Tensor, bits: int, signed: bool) -> Tensor:
    """w_n of Eq. (1): x clipped, in units of the levels (a transition point lies at every half; at 0 for one signed bit)."""
    alpha, beta, gamma = clip_range(bits, signed)
    return (x * (gamma / (scale.abs() + EPS))).clamp_(alpha, beta)


def distance_to_transition_point(w_n: Tensor, bits: int) -> Tensor:
    """Distance of normalized weights w_n to the nearest transition point, 0 to 0.5 in units of the step between levels.

    0.5 - |w_n - round(w_n)|: a weight on a level, or clipped to the last one, is at 0.5. One bit: the levels -1 and 1 are
    two apart and the only transition point is 0, so |w_n| / 2. (The released code's value for one bit is larger by 0.5.)
    """
    return w_n.abs() / 2 if bits == 1 else 0.5 - (w_n - w_n.round()).abs()


class _FixedPoint(torch.autograd.Function):
    # One function, one saved tensor: composed of torch's operations it would save four and take twice as long.
    @staticmethod
    def forward(ctx, x, scale, bits, signed):
        alpha, beta, gamma = clip_range(bits, signed)
        v = x * (gamma / (scale.abs() + EPS))
        ctx.save_for_backward(v, scale)
        ctx.limits = alpha, beta, gamma
        if bits == 1 and signed:
            return torch.where(v >= 0, 1.0, -1.0).to(v.dtype)
        return v.clamp(alpha, beta).round_().div_(gamma)

    @staticmethod
    def backward(ctx, grad):
        v, scale = ctx.saved_tensors
        alpha, beta, gamma = ctx.limits
        size = scale.abs() + EPS
        passed = grad * (v == v.clamp(alpha, beta))
        grad_scale = None
        if ctx.needs_input_grad[1]:
            product = passed.flatten().to(scale.dtype) @ v.flatten().to(scale.dtype)    # half precision would overflow
            grad_scale = product.reshape(scale.shape) * (-scale.sign() / (gamma * size))
        return passed.div_(size) if ctx.needs_input_grad[0] else None, grad_scale, None, None


def fixed_point(x: Tensor, scale: Tensor, bits: int, signed: bool) -> Tensor:
    """x_q of Eq. (13), a float tensor of x's shape (any). scale: a float tensor of one element.

    Straight-through for round and sign only; the rest is differentiated: dx_q/dx = 1/|s| where x is not clipped, else 0, and
    dx_q/ds = -x sign(s)/s^2 there, else 0 (as the released code, and unlike LSQ, whose gradient has a rounding term).
    """
    return _FixedPoint.apply(x, scale, bits, signed)


class FixedPointWeight(nn.Module):
    """A latent weight's quantizer. `scale` is set by `calibrate` and then learned or frozen.

    Under transition-rate scheduling it is frozen: weights could otherwise transit without moving themselves (footnote 2).
    """

    def __init__(self, bits: int, learn_scale: bool):
        super().__init__()
        self.bits = bits
        self.scale = nn.Parameter(torch.ones(()), requires_grad=learn_scale)

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        """s = 3 std(w), as the released code."""
        self.scale.copy_(3 * weight.std(correction=0))

    @property
    def limits(self) -> tuple[float, float]:
        """alpha and beta: the ends of the normalized weights."""
        return clip_range(self.bits, signed=True)[:2]

    @property
    def transition_points(self) -> list[float]:
        """Where the normalized weight's level changes: halves; 0 for one bit."""
        low, high = self.limits
        return [0.0] if self.bits == 1 else [low + 0.5 + i for i in range(int(high - low))]

    @property
    def effective_step_size(self) -> float:
        """What a change by one unit of w_d counts in Eqs. (6) to (9): 1 / gamma, and half of that for one bit, whose levels -1
        and 1 are two units apart (Eq. 8). A layer's average effective step size is then delta times its transition rate."""
        return 0.5 if self.bits == 1 else 1 / clip_range(self.bits, signed=True)[2]

    def discrete(self, weight: Tensor) -> Tensor:
        """w_d: what transitions are counted on."""
        return discretize(weight.detach(), self.scale.detach(), self.bits, signed=True)

    def normalized(self, weight: Tensor) -> Tensor:
        return normalize(weight.detach(), self.scale.detach(), self.bits, signed=True)

    def latent(self, levels: Tensor) -> Tensor:
        """The latent weight in the middle of each level's bin: the inverse of `normalized` (`levels`: any float tensor)."""
        return levels * ((self.scale.detach().abs() + EPS) / clip_range(self.bits, signed=True)[2])

    def forward(self, weight: Tensor) -> Tensor:
        return fixed_point(weight, self.scale, self.bits, signed=True)


class FixedPointActivation(nn.Module):
    """Quantizer of a non-negative input, such as a ReLU's output; its scale is learned, from 3 std(x) / sqrt(1 - 2/pi) on the
    first batch, which is three standard deviations of the normal whose positive half x would be (released code)."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits
        self.scale = nn.Parameter(torch.ones(()))
        self.calibrating = False

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        self.scale.copy_(3 * x.std(correction=0) / math.sqrt(1 - 2 / math.pi))

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.calibrate(x)
        return fixed_point(x, self.scale, self.bits, signed=False)
