"""A weight tensor held as integer codes, with rounding that can be learned for a while (AdaRound)."""

import torch
from torch import Tensor, nn

from quantlab.quantizers import adaround
from quantlab.quantizers.functional import code_range, dequantize, quantize, search_range


class QuantizedWeight(nn.Module):
    """Codes, scale and zero point of one weight; calling it gives the float weight they stand for.

    State: `codes` (uint8, or int8 if symmetric, of the weight's shape), `scale` and `zero_point` (float32, [O, 1, ...]
    for granularity output_channel, [1, 1, ...] for tensor). While rounding is learned there is also the parameter
    `rounding` (V of AdaRound, the weight's shape) and `codes` holds the rounded-down codes.
    """

    def __init__(self, shape: torch.Size, bits: int, symmetric: bool, granularity: str):
        super().__init__()
        self.bits, self.symmetric, self.granularity = bits, symmetric, granularity
        self.q_min, self.q_max = code_range(bits, symmetric)
        rows = shape[0] if granularity == "output_channel" else 1
        per_row = (rows,) + (1,) * (len(shape) - 1)
        self.register_buffer("codes", torch.zeros(shape, dtype=torch.int8 if symmetric else torch.uint8))
        self.register_buffer("scale", torch.ones(per_row))
        self.register_buffer("zero_point", torch.zeros(per_row))
        self.register_parameter("rounding", None)
        self._cached: Tensor | None = None  # the float weight, while neither codes nor rounding change
        self._held: Tensor | None = None  # the weight with its graph, between hold and release

    def calibrate(self, weight: Tensor, search: str, p: float) -> None:
        """Choose scale and zero point for `weight` and round it to nearest."""
        rows = weight.reshape(self.scale.shape[0], -1)
        scale, zero_point = search_range(rows, self.bits, self.symmetric, search, p)
        self.scale.copy_(scale.reshape(self.scale.shape))
        self.zero_point.copy_(zero_point.reshape(self.scale.shape))
        self._store(quantize(weight, self.scale, self.zero_point, self.q_min, self.q_max))

    def learn_rounding(self, weight: Tensor, zeta: float, gamma: float, straight_through: bool) -> None:
        """Start learning whether each element of `weight` is rounded up or down (V of AdaRound, h(V) = the fraction).

        AdaRound proper is soft: h takes part as it is, and the weight starts as it was wherever it lies inside the
            range.
        straight_through: the forward pass rounds up where h(V) >= 1/2, and only the derivative is that of h; the weight
        starts as rounded to nearest, and there is no gap to close when the rounding is fixed.
        """
        self.zeta, self.gamma, self.straight_through = zeta, gamma, straight_through
        ratio = weight / self.scale + self.zero_point
        # Down from the largest code but one, so that up is always a code; what lies outside the range starts at its
        # end.
        down = torch.floor(ratio).clamp(self.q_min, self.q_max - 1)
        fraction = (ratio - down).clamp(0, 1)
        self.rounding = nn.Parameter(adaround.inverse_rectified_sigmoid(fraction, zeta, gamma))
        self._store(down)

    def soft(self) -> Tensor:
        """h(V), of the weight's shape."""
        return adaround.rectified_sigmoid(self.rounding, self.zeta, self.gamma)

    def hold(self) -> None:
        """Compute the weight once and give it out unchanged until `release`; its gradient is gathered meanwhile."""
        self._held = self._learned_weight()
        self._cached = self._held.detach().requires_grad_(self._held.requires_grad)

    def release(self) -> None:
        """Pass the gathered gradient on to the rounding: one derivative of h for any number of uses since `hold`."""
        held, cached, self._held, self._cached = self._held, self._cached, None, None
        if cached.grad is not None:
            held.backward(cached.grad)

    @torch.no_grad()
    def settle(self) -> None:
        """Push every h to 0 or 1 (whichever is nearer) and stop learning it; V stays, so that a checkpoint keeps
        its shape.
        """
        self.rounding.copy_(torch.where(self.rounding >= 0, 10.0, -10.0))
        self.rounding.requires_grad_(False)

    @torch.no_grad()
    def harden(self) -> None:
        """End the learning: every h becomes 0 or 1 (1 where V >= 0, that is h >= 1/2) and V is dropped."""
        if self.rounding is not None:
            up = (self.rounding >= 0).to(self.scale.dtype)
            self._store(self.codes + up)
            self.rounding = None

    def _store(self, codes: Tensor) -> None:
        self.codes.copy_(codes)
        self._cached = None

    def _load_from_state_dict(self, *args, **kwargs):
        self._cached = None
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn, recurse=True):
        self._cached = None
        return super()._apply(fn, recurse)

    def _learned_weight(self) -> Tensor:
        up = self.soft()
        if self.straight_through:
            up = (self.rounding >= 0).to(up.dtype) + (up - up.detach())
        return dequantize(self.codes + up, self.scale, self.zero_point)

    def forward(self) -> Tensor:
        if self.rounding is not None and self._held is None:
            return self._learned_weight()
        if self._cached is None:  # the codes no longer change: one conversion serves every step of a rollout
            self._cached = dequantize(self.codes.to(self.scale.dtype), self.scale, self.zero_point)
        return self._cached


class FloatWeight(nn.Module):
    """A weight that stays in full precision (32 bits), with the same call."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())

    def forward(self) -> Tensor:
        return self.weight
