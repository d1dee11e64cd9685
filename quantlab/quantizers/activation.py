"""Activation quantizer with learned scales: one scale per group of denoising steps, or one shared by all."""

import torch
from torch import Tensor, nn

from quantlab.quantizers.functional import code_range, fake_quantize, search_range
from quantlab.quantizers.reservoir import Reservoir

OBSERVED_VALUES = 16384  # kept of each group for the range search


class GroupPointer:
    """Which group of denoising steps the network is walking through; one object shared by all its quantizers."""

    def __init__(self, groups: int):
        self.groups = groups
        self.index = 0


class ActivationQuantizer(nn.Module):
    """Fake-quantizes a tensor of any shape with the scale of the current group (`pointer.index`).

    State: `log_scale` (G scalar parameters, so that an optimizer's memory of one group is not touched by steps of
    another) and `zero_point` (float32 [G]), G = groups, or 1 when shared. We learn the logarithm of the scale: steps
    are then relative, the same for every layer, and the scale stays positive. (The paper does not say how scales are
    parametrised; LSQ and Q-Diffusion learn s itself with one absolute rate.) Straight-through rounding; zero points
    stay as calibrated (Q-Diffusion).
    """

    def __init__(self, bits: int, symmetric: bool, pointer: GroupPointer, shared: bool):
        super().__init__()
        self.bits, self.symmetric, self.pointer, self.shared = bits, symmetric, pointer, shared
        self.q_min, self.q_max = code_range(bits, symmetric)
        groups = 1 if shared else pointer.groups
        self.log_scale = nn.ParameterList(torch.zeros(()) for _ in range(groups))
        self.register_buffer("zero_point", torch.zeros(groups))
        self.observed: dict[int, Reservoir] | None = None

    def observe(self) -> None:
        """From now on record inputs and pass them through unchanged, until `calibrate`."""
        self.observed = {}

    @torch.no_grad()
    def calibrate(self, search: str, p: float) -> None:
        """Choose scale and zero point of each group from what was observed; a group never seen takes its neighbour's.

        The error of a range is that of a fair sample of all values; their extremes only bound the ranges that are
        tried.
        """
        observed, self.observed = {group: seen for group, seen in (self.observed or {}).items() if seen.seen}, None
        if not observed:
            return  # a layer that no forward pass reached
        for group in range(len(self.log_scale)):
            nearest = min(observed, key=lambda seen: abs(seen - group))
            seen = observed[nearest]
            scale, zero_point = search_range(seen.values[None], self.bits, self.symmetric, search, p, seen.ends)
            self.log_scale[group].copy_(scale[0].log())
            self.zero_point[group] = zero_point[0]

    def forward(self, x: Tensor) -> Tensor:
        group = 0 if self.shared else self.pointer.index
        if self.observed is not None:
            self.observed.setdefault(group, Reservoir(OBSERVED_VALUES)).add(x)
            return x
        return fake_quantize(x, self.log_scale[group].exp(), self.zero_point[group], self.q_min, self.q_max)
