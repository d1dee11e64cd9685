"""What a layer asks of its quantizers, whatever their paper."""

from typing import TYPE_CHECKING

from torch import Tensor, nn


class Quantizer(nn.Module):
    """Maps a float tensor to one of its shape whose values take 2^bits levels."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


class WeightQuantizer(Quantizer):
    """Quantizer of a layer's weight, which the layer hands it: a float tensor [O, ...], None where the layer has let go
    of it.
    """

    def calibrate(self, weight: Tensor) -> None:
        """Choose the scale for a full-precision weight."""
        raise NotImplementedError  # every paper has its own initial scale

    if TYPE_CHECKING:

        def __call__(self, weight: Tensor | None) -> Tensor: ...
