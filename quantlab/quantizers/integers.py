"""Tensors as integer codes, and codes packed into bytes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from quantlab.errors import RunError
from quantlab.quantizers.functional import code_range, dequantize


@dataclass(frozen=True)
class Grid:
    """What real value a code stands for: (code - zero_point) scale.

    scale, zero_point: float tensors, scalars, or [size of `axis`]. A zero point that is no integer is that of a grid
    without a zero (one bit, EWGS, DSQ). signed: codes run over -2^(b-1) .. 2^(b-1) - 1, else over 0 .. 2^b - 1.
    """

    scale: Tensor
    zero_point: Tensor
    signed: bool = False
    axis: int | None = None


SIGN = Grid(torch.tensor(2.0), torch.tensor(0.5))  # -1 and 1


def through_zero(step: Tensor, signed: bool, axis: int | None = None) -> Grid:
    """Whole multiples of `step`."""
    return Grid(step.detach(), torch.zeros_like(step), signed, axis)


@dataclass(frozen=True)
class IntegerTensor:
    """A tensor whose values lie on one grid. codes: of the tensor's shape; uint8, or int8 where they are signed (int16
    of more than 8 bits).
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int
    axis: int | None = None

    @classmethod
    def of(cls, values: Tensor, grid: Grid, bits: int) -> "IntegerTensor":
        """`values` (float, any shape), which lie on `grid`; signed grids up to 16 bits.

        Raises RunError where one of them does not, by more than float32 rounds them, or needs more bits.
        """
        scale, zero_point = (part.detach().to(values.device, torch.float32) for part in (grid.scale, grid.zero_point))
        along = values.float() / _along(scale, grid.axis, values.ndim) + _along(zero_point, grid.axis, values.ndim)
        codes = along.round()
        if codes.numel():
            away = float((along - codes).abs().max())
            resolved = 2.0**-22 * max(float(codes.abs().max()), float(zero_point.abs().max()))
            if not away <= max(1e-3, resolved):
                raise RunError(f"integers: a value lies {away:.2e} of a step beside its integer")
        _require_range(codes, bits, grid.signed)
        kind = torch.uint8 if not grid.signed else torch.int8 if bits <= 8 else torch.int16
        return cls(codes.to(kind), scale, zero_point, bits, grid.axis)

    def dequantize(self) -> Tensor:
        """The real values, (codes - zero_point) scale, of the dtype of `scale`."""
        scale, zero_point = (_along(part, self.axis, self.codes.ndim) for part in (self.scale, self.zero_point))
        return dequantize(self.codes.to(self.scale.dtype), scale, zero_point)

    def pack(self) -> Tensor:
        """The codes in as few bytes as they need: `pack`."""
        return pack(self.codes, self.bits)


def _along(part: Tensor, axis: int | None, ndim: int) -> Tensor:
    return part if axis is None else part.view([-1 if dim == axis else 1 for dim in range(ndim)])


def _require_range(codes: Tensor, bits: int, signed: bool) -> None:
    low, high = code_range(bits, signed)
    if codes.numel() and (int(codes.min()) < low or int(codes.max()) > high):
        found = f"{int(codes.min())} to {int(codes.max())}"
        raise RunError(f"integers: got codes from {found}, allowed with {bits} bits: {low} to {high}")


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes (uint8, or int8 in two's complement, any shape) of 1 to 8 `bits` one after the other in bytes, the first in
    the lowest bits: two codes of 4 bits a byte, eight of 3 bits in three. Returns uint8 [ceil(N bits / 8)].

    Raises RunError for codes that do not fit.
    """
    _require_range(codes, bits, signed=codes.dtype == torch.int8)
    stream = _bits_of(codes.detach().reshape(-1).view(torch.uint8), bits).flatten()
    return _from_bits(F.pad(stream, (0, -len(stream) % 8)).view(-1, 8))


def unpack(packed: Tensor, bits: int, shape: Sequence[int], signed: bool) -> Tensor:
    """The codes of that shape that `pack` made bytes of: int8 where `signed`, else uint8.

    Raises RunError where there are not as many bytes as they take.
    """
    count = math.prod(shape)
    needed = -(-count * bits // 8)
    if packed.numel() != needed:
        raise RunError(f"integers: got {packed.numel()} bytes, allowed: the {needed} of {count} codes of {bits} bits")
    stream = _bits_of(packed, 8).flatten()[: count * bits]
    codes = _from_bits(stream.view(count, bits)).reshape(tuple(shape))
    if not signed:
        return codes
    unused = 8 - bits  # the sign fills them
    return codes.bitwise_left_shift(unused).view(torch.int8).bitwise_right_shift(unused)


def _bits_of(octets: Tensor, bits: int) -> Tensor:
    """The lowest `bits` of uint8 [N], the lowest first: uint8 [N, bits] of 0 and 1."""
    return octets[:, None].bitwise_right_shift(torch.arange(bits, dtype=torch.uint8, device=octets.device)) & 1


def _from_bits(stream: Tensor) -> Tensor:
    """The inverse: uint8 [N] of [N, bits]."""
    places = torch.arange(stream.shape[1], dtype=torch.uint8, device=stream.device)
    return stream.bitwise_left_shift(places).sum(1, dtype=torch.uint8)
