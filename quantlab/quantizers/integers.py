"""Tensors as integer codes, and codes packed into bytes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantlab.quantizers.functional import dequantize


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


@dataclass(frozen=True)
class IntegerTensor:
    """A tensor whose values lie on one grid. codes: uint8, or int8 where they are signed, of the tensor's shape."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int
    axis: int | None = None

    @classmethod
    def of(cls, values: Tensor, grid: Grid, bits: int) -> "IntegerTensor":
        """`values` (float, any shape), which lie on `grid`."""
        scale, zero_point = (part.detach().to(values.device) for part in (grid.scale, grid.zero_point))
        codes = values / _along(scale, grid.axis, values.ndim) + _along(zero_point, grid.axis, values.ndim)
        kind = torch.int8 if grid.signed else torch.uint8
        return cls(codes.round_().to(kind), scale, zero_point, bits, grid.axis)

    def dequantize(self) -> Tensor:
        """The real values, of the dtype of `scale`."""
        scale, zero_point = (_along(part, self.axis, self.codes.ndim) for part in (self.scale, self.zero_point))
        return dequantize(self.codes.to(self.scale.dtype), scale, zero_point)

    def pack(self) -> Tensor:
        """The codes in as few bytes as they need: `pack`."""
        return pack(self.codes, self.bits)


def _along(part: Tensor, axis: int | None, ndim: int) -> Tensor:
    return part if axis is None else part.view([-1 if dim == axis else 1 for dim in range(ndim)])


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes (uint8, or int8 in two's complement, any shape) of 1 to 8 `bits` one after the other in bytes, the first in
    the lowest bits: two codes of 4 bits a byte, eight of 3 bits in three. Returns uint8 [ceil(N bits / 8)].

    Raises ValueError for codes that do not fit.
    """
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if codes.dtype == torch.int8 else (0, 2**bits - 1)
    if codes.numel() and (int(codes.min()) < low or int(codes.max()) > high):
        found = f"{int(codes.min())} to {int(codes.max())}"
        raise ValueError(f"pack: got codes from {found}, allowed with {bits} bits: {low} to {high}")
    in_bytes = codes.detach().cpu().contiguous().numpy().view(np.uint8).reshape(-1, 1)
    stream = np.unpackbits(in_bytes, axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream, bitorder="little"))


def unpack(packed: Tensor, bits: int, shape: Sequence[int], signed: bool) -> Tensor:
    """The codes of that shape that `pack` made bytes of: int8 where `signed`, else uint8.

    Raises ValueError where there are not as many bytes as they take.
    """
    count = math.prod(shape)
    needed = -(-count * bits // 8)
    if packed.numel() != needed:
        raise ValueError(f"unpack: got {packed.numel()} bytes, {count} codes of {bits} bits take {needed}")
    stream = np.unpackbits(packed.cpu().contiguous().numpy(), count=count * bits, bitorder="little")
    codes = torch.from_numpy(np.packbits(stream.reshape(count, bits), axis=1, bitorder="little")).reshape(tuple(shape))
    if not signed:
        return codes
    unused = 8 - bits  # the sign fills them
    return codes.bitwise_left_shift(unused).view(torch.int8).bitwise_right_shift(unused)
