"""Rounding of weights that is learned for a while (AdaRound; the maths is in `adaround`), and then fixed.

A weight's quantizer is replaced as its state changes: codes rounded to nearest (`UniformAffineWeight`), learned
rounding (`LearnedRounding`), fixed codes (`CodedWeight`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.errors import RunError
from quantlab.quantizers import adaround
from quantlab.quantizers.base import WeightQuantizer
from quantlab.quantizers.functional import code_range, dequantize
from quantlab.quantizers.insert import quantized_layers
from quantlab.quantizers.integers import Grid
from quantlab.quantizers.layer import SplitWeight
from quantlab.quantizers.recomputed import made_by, recomputed
from quantlab.quantizers.uniform_affine import CodedWeight, UniformAffineWeight

HELD_WHOLE = 2**28  # weights: 1 GiB of them


class LearnedRounding(WeightQuantizer):
    """Whether each element of `weight` is rounded up or down is learned (V of AdaRound, h(V) = the fraction); scale and
    zero point are those of `nearest`, which was calibrated for it.

    AdaRound proper is soft: h takes part as it is, and the weight starts as it was wherever it lies inside the range.
    straight_through: the forward pass rounds up where h(V) >= 1/2, and only the derivative is that of h; the weight
    starts as rounded to nearest, and there is no gap to close when the rounding is fixed.

    State: the parameter `rounding` (V, the weight's shape); `codes` (rounded down), `scale`, `zero_point`.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor

    @torch.no_grad()
    def __init__(self, nearest: UniformAffineWeight, weight: Tensor, zeta: float, gamma: float, straight_through: bool):
        super().__init__(nearest.bits)
        self.zeta, self.gamma, self.straight_through = zeta, gamma, straight_through
        q_min, q_max = code_range(nearest.bits, nearest.symmetric)
        ratio = weight / nearest.scale + nearest.zero_point
        # Down from the largest code but one, so that up is always a code; what lies outside the range starts at its
        # end.
        down = torch.floor(ratio).clamp(q_min, q_max - 1)
        fraction = (ratio - down).clamp(0, 1)
        self.rounding = nn.Parameter(adaround.inverse_rectified_sigmoid(fraction, zeta, gamma))
        self.register_buffer("codes", down.to(nearest.codes.dtype))
        self.register_buffer("scale", nearest.scale)
        self.register_buffer("zero_point", nearest.zero_point)
        # inside `held_weights`: the weight, or what stands for it and gathers its gradient
        self.held: Tensor | None = None
        self.leaf: Tensor | None = None
        self.gradient: Tensor | None = None  # memory of the last one

    def soft(self) -> Tensor:
        """h(V), of the weight's shape."""
        return adaround.rectified_sigmoid(self.rounding, self.zeta, self.gamma)

    def forward(self, weight: Tensor | None = None) -> Tensor:
        if self.held is not None:
            return self.held
        if self.leaf is not None:
            return made_by(self.rounded, _Rounded.apply(self.leaf, self), self.rounding)
        up = self.soft()
        if self.straight_through:
            up = (self.rounding >= 0).to(up.dtype) + (up - up.detach())
        return dequantize(self.codes + up, self.scale, self.zero_point)

    def rounded(self) -> Tensor:
        """The weight, rounded up where h(V) >= 1/2, without a graph."""
        codes = self.codes + (self.rounding.detach() >= 0).to(self.codes.dtype)
        return codes.to(self.scale.dtype).sub_(self.zero_point).mul_(self.scale)

    def grid(self) -> Grid:
        raise RunError("integers: got a weight whose rounding is still learned, allowed: fixed ones; call fix_rounding")

    @torch.no_grad()
    def settle(self) -> None:
        """Push every h to 0 or 1 (whichever is nearer) and stop learning it; V stays, so that a checkpoint keeps
        its shape.
        """
        self.rounding.copy_(torch.where(self.rounding >= 0, 10.0, -10.0))
        self.rounding.requires_grad_(False)

    @torch.no_grad()
    def fixed(self) -> CodedWeight:
        """Every h becomes 0 or 1 (1 where V >= 0, that is h >= 1/2) and V is dropped."""
        up = (self.rounding >= 0).to(self.scale.dtype)
        return CodedWeight((self.codes + up).to(self.codes.dtype), self.scale, self.zero_point, self.bits)


class _Rounded(torch.autograd.Function):
    """The rounded weight, whose gradient `leaf` gets as it is."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, learned: LearnedRounding) -> Tensor:
        return learned.rounded()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def learn_rounding(network: nn.Module, zeta: float, gamma: float, straight_through: bool) -> list[LearnedRounding]:
    """Give every weight of `network` that is rounded to nearest its rounding variables; the layers must still have
    their float weights. Returns them, in the order of the modules.
    """
    learned = []
    for holder, name, weight in _places(network):
        nearest = getattr(holder, name)
        if isinstance(nearest, UniformAffineWeight) and weight is not None:
            learned.append(LearnedRounding(nearest, weight, zeta, gamma, straight_through))
            setattr(holder, name, learned[-1])
    return learned


def fix_rounding(network: nn.Module) -> None:
    """Fix every learned rounding to up or down."""
    for holder, name, _ in _places(network):
        if isinstance(learned := getattr(holder, name), LearnedRounding):
            setattr(holder, name, learned.fixed())


def _places(network: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor | None]]:
    """Where each weight's quantizer stands, as a module and the name of its attribute; and its float weight."""
    for _, layer in quantized_layers(network):
        if isinstance(quantizer := layer.weight_quantizer, SplitWeight):
            for number, piece in enumerate(quantizer.pieces(layer.weight)):
                yield quantizer.parts, str(number), piece
        else:
            yield layer, "weight_quantizer", layer.weight


def learned_roundings(network: nn.Module) -> list[LearnedRounding]:
    return [module for module in network.modules() if isinstance(module, LearnedRounding)]


@contextmanager
def held_weights(learned: Iterable[LearnedRounding]) -> Iterator[None]:
    """Inside the block the learned weights are fixed tensors; at its end their gradients reach the rounding variables.

    For an iteration that runs the network many times between two updates: the rounding is then computed twice, to be
    held and to be differentiated, instead of every time. No graph of it is kept meanwhile, and of the gradients of held
    weights each goes as its own is made: beside the rounding variables there are two tensors of their size, not five.

    Of networks with more than HELD_WHOLE learned weights that are straight through, there is one, the gradient: a
    weight is made of its codes whenever a product needs it, for a twentieth more time. The gradient's memory is that of
    the iteration before, so that the first iteration needs as much as any, of one denoising step or of many. The bits
    are the same.
    """
    learned = list(learned)
    compact = sum(one.codes.numel() for one in learned) > HELD_WHOLE and all(one.straight_through for one in learned)
    with _held_as_codes(learned) if compact else _held_whole(learned):
        yield


@contextmanager
def _held_whole(learned: list[LearnedRounding]) -> Iterator[None]:
    try:
        for one in learned:
            with torch.no_grad():
                fixed = one(None)
            one.held = fixed.requires_grad_(one.rounding.requires_grad)
        yield
        gradients = [None if one.held is None else one.held.grad for one in learned]
    finally:
        for one in learned:
            one.held = None
    for number, one in enumerate(learned):
        gradient, gradients[number] = gradients[number], None
        if gradient is not None:
            one(None).backward(gradient)  # type: ignore[no-untyped-call]


@contextmanager
def _held_as_codes(learned: list[LearnedRounding]) -> Iterator[None]:
    with recomputed():
        try:
            for one in learned:
                # All of one number: it takes no memory, and gathers the weight's gradient
                one.leaf = one.scale.new_zeros(()).expand(one.codes.shape)
                if one.rounding.requires_grad:
                    if one.gradient is None or one.rounding.grad is not None:
                        one.gradient = torch.empty_like(one.rounding)
                    one.leaf.requires_grad_().grad = one.gradient.zero_()
            yield
        finally:
            for one in learned:
                one.leaf = None
    for one in learned:
        if one.rounding.requires_grad and one.gradient is not None:
            (own,) = torch.autograd.grad(one(None), one.rounding, one.gradient)
            earlier, one.rounding.grad = one.rounding.grad, one.gradient.copy_(own)
            if earlier is not None:
                one.rounding.grad += earlier
