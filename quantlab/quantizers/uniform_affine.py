"""quantizer=uniform_affine, for post-training: weights as integer codes, inputs with scales per group of denoising
steps.

The maths is in `functional`; how the rounding of weights is learned, in `rounding`.
"""

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quantlab.quantizers.attention import is_joint
from quantlab.quantizers.base import Quantizer, WeightQuantizer
from quantlab.quantizers.functional import code_range, dequantize, fake_quantize, quantize, search_range
from quantlab.quantizers.integers import Grid, IntegerTensor
from quantlab.quantizers.policy import Layer, LayerBits, Policy, Rule
from quantlab.quantizers.presets import exemptions
from quantlab.quantizers.recomputed import made_by
from quantlab.quantizers.reservoir import Reservoir

if TYPE_CHECKING:
    from quantlab.config.quantizers.uniform_affine import UniformAffine

OBSERVED_VALUES = 16384  # kept of each group for the range search


class CodedWeight(WeightQuantizer):
    """A weight held as fixed integer codes; a call gives the float weight they stand for, whatever weight is handed in.

    State: `codes` (uint8 or int8, of the weight's shape), `scale` and `zero_point` (float32, [O, 1, ...] or
    [1, 1, ...]). Its values are of `dtype`; the state keeps its own.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    dtype: torch.dtype | None = None  # None: that of the scale

    def __init__(self, codes: Tensor, scale: Tensor, zero_point: Tensor, bits: int):
        super().__init__(bits)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self._value: Tensor | None = None  # one conversion serves every step of a rollout

    def forward(self, weight: Tensor | None = None) -> Tensor:
        if self._value is None:
            self._value = self._dequantized().to(self.dtype or self.scale.dtype)
        return self._value

    def _dequantized(self) -> Tensor:
        return dequantize(self.codes.to(self.scale.dtype), self.scale, self.zero_point)

    def grid(self) -> Grid:
        axis = None if self.scale.numel() == 1 else 0
        shape = () if axis is None else (-1,)
        signed = self.codes.dtype == torch.int8
        return Grid(self.scale.view(shape), self.zero_point.view(shape), signed, axis)

    def integers(self, x: Tensor | None = None) -> IntegerTensor:
        grid = self.grid()
        return IntegerTensor(self.codes, grid.scale, grid.zero_point, self.bits, grid.axis)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_value": None}  # a copy converts its own when it is asked

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._value = None
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> "CodedWeight":
        self._value = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class UniformAffineWeight(CodedWeight):
    """Codes, scale and zero point of a weight of `shape`, rounded to nearest; blank until calibrated or loaded.

    granularity: output_channel, tensor. scale_search: min_max, lp (the range of least L_p error).
    """

    def __init__(
        self,
        shape: torch.Size,
        bits: int,
        symmetric: bool = False,
        granularity: str = "output_channel",
        scale_search: str = "lp",
        p: float = 2.4,
    ):
        per_row = (shape[0] if granularity == "output_channel" else 1,) + (1,) * (len(shape) - 1)
        codes = torch.zeros(shape, dtype=torch.int8 if symmetric else torch.uint8)
        super().__init__(codes, torch.ones(per_row), torch.zeros(per_row), bits)
        self.symmetric, self.scale_search, self.p = symmetric, scale_search, p

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        """Choose scale and zero point for `weight` and round it to nearest."""
        rows = weight.reshape(self.scale.shape[0], -1)
        scale, zero_point = search_range(rows, self.bits, self.symmetric, self.scale_search, self.p)
        self.scale.copy_(scale.reshape(self.scale.shape))
        self.zero_point.copy_(zero_point.reshape(self.scale.shape))
        self.codes.copy_(quantize(weight, self.scale, self.zero_point, *code_range(self.bits, self.symmetric)))
        self._value = None


class GroupPointer:
    """Which group of denoising steps the network is walking through; one object shared by all its quantizers."""

    def __init__(self, groups: int):
        self.groups = groups
        self.index = 0


class UniformAffineActivation(Quantizer):
    """Fake-quantizes a tensor of any shape with the scale of the current group (`pointer.index`).

    State: `log_scale` (G scalar parameters, so that an optimizer's memory of one group is not touched by steps of
    another) and `zero_point` (float32 [G]), G = groups, or 1 when shared. We learn the logarithm of the scale: steps
    are then relative, the same for every layer, and the scale stays positive. (The paper does not say how scales are
    parametrised; LSQ and Q-Diffusion learn s itself with one absolute rate.) Straight-through rounding; zero points
    stay as calibrated (Q-Diffusion).
    """

    zero_point: Tensor

    def __init__(
        self,
        bits: int,
        symmetric: bool = False,
        pointer: GroupPointer | None = None,
        shared: bool = False,
        scale_search: str = "lp",
        p: float = 2.4,
    ):
        super().__init__(bits)
        self.symmetric, self.scale_search, self.p = symmetric, scale_search, p
        self.pointer, self.shared = pointer or GroupPointer(1), shared
        self.q_min, self.q_max = code_range(bits, symmetric)
        groups = 1 if shared else self.pointer.groups
        self.log_scale = nn.ParameterList(torch.zeros(()) for _ in range(groups))
        self.register_buffer("zero_point", torch.zeros(groups))
        self.observed: dict[int, Reservoir] | None = None

    def observe(self) -> None:
        """From now on record inputs and pass them through unchanged, until `choose_ranges`."""
        self.observed = {}

    @torch.no_grad()
    def choose_ranges(self) -> None:
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
            scale, zero_point = search_range(
                seen.values[None], self.bits, self.symmetric, self.scale_search, self.p, seen.ends
            )
            self.log_scale[group].copy_(scale[0].log())
            self.zero_point[group] = zero_point[0]

    def grid(self) -> Grid:
        """That of the current group."""
        group = 0 if self.shared else self.pointer.index
        return Grid(self.log_scale[group].detach().exp(), self.zero_point[group], self.symmetric)

    def forward(self, x: Tensor) -> Tensor:
        group = 0 if self.shared else self.pointer.index
        if self.observed is not None:
            self.observed.setdefault(group, Reservoir(OBSERVED_VALUES)).add(x)
            return x
        quantize = partial(
            fake_quantize, x, self.log_scale[group].exp(), self.zero_point[group], self.q_min, self.q_max
        )
        return made_by(quantize, quantize(), x)


class UniformAffinePolicy(Policy):
    """quantizer=uniform_affine. pointer: which of their scales the quantizers of inputs take."""

    trains = False

    def __init__(self, section: "UniformAffine", pointer: GroupPointer | None = None):
        super().__init__(section)
        self.attention, self.split_shortcuts = section.attention, section.split_shortcuts
        self.softmax_bits, self.pointer, self.preset = section.softmax_bits, pointer or GroupPointer(1), section.preset
        self._weight, self._activation, self._p = section.weight, section.activation, section.p
        self.joint: set[str] = set()  # names of joint attentions

    def suit(self, network: nn.Module) -> None:
        found = exemptions(self.preset, network)
        self.preset_rules = [Rule(re.compile(pattern), LayerBits(*bits)) for pattern, bits in found]
        self.joint = {name for name, module in network.named_modules() if is_joint(module)}

    def weight(self, shape: torch.Size, bits: int) -> UniformAffineWeight:
        chosen = self._weight
        return UniformAffineWeight(shape, bits, chosen.symmetric, chosen.granularity, chosen.scale_search, self._p)

    def activation(self, layer: Layer, bits: int) -> UniformAffineActivation:
        return self._input(bits, self._activation.symmetric)

    def operand(self, operand: str, bits: int) -> UniformAffineActivation:
        """P, the softmax output, is unsigned with zero point 0 (Q-Diffusion)."""
        return self._input(bits, self._activation.symmetric and operand != "softmax")

    def operand_bits(self, attention: str, operand: str) -> int:
        """Joint attention's products stay in full precision, as in all papers on such networks, unless a rule of the
        section is about them and not about all that is in an attention.
        """
        if attention in self.joint:
            name, patterns = f"{attention}.processor.{operand}", [rule.pattern for rule in self.rules]
            if not any(pattern.search(name) and not pattern.search(attention) for pattern in patterns):
                return 32
        bits = super().operand_bits(attention, operand)
        return self.softmax_bits if operand == "softmax" and bits != 32 else bits

    def _input(self, bits: int, symmetric: bool) -> UniformAffineActivation:
        chosen = self._activation
        return UniformAffineActivation(
            bits, symmetric, self.pointer, chosen.scales == "shared", chosen.scale_search, self._p
        )
