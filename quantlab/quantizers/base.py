"""What a layer asks of its quantizers, whatever their paper."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantlab.quantizers.integers import Grid, IntegerTensor


class Quantizer(nn.Module):
    """Maps a float tensor to one of its shape whose values take 2^bits levels."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    def grid(self) -> Grid:
        """That of the values of the last call. Raises RunError, with the reason, where they lie on none or several."""
        raise NotImplementedError  # every quantizer's own

    @torch.no_grad()
    def integers(self, x: Tensor | None = None) -> IntegerTensor:
        """What a call gives for x, as integer codes. Raises RunError as `grid`."""
        values = self(x)
        return IntegerTensor.of(values, self.grid(), self.bits)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor | None = None) -> Tensor: ...


class WeightQuantizer(Quantizer):
    """Quantizer of a layer's weight, which the layer hands it: a float tensor [O, ...], None where the layer has let go
    of it and the quantizer holds codes.
    """

    def calibrate(self, weight: Tensor) -> None:
        """Choose the scale for a full-precision weight."""
        raise NotImplementedError  # every paper has its own initial scale
