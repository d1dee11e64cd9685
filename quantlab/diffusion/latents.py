"""Latents as sequences, and back, as in Flux: squares of two by two are tokens of four times as many channels."""

from torch import Tensor


def packed(x: Tensor) -> Tensor:
    """[N, C, H, W] as [N, H/2 * W/2, 4 C]: of a token the channels, and of each the square row by row."""
    count, channels, height, width = x.shape
    x = x.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(count, height // 2 * (width // 2), 4 * channels)


def unpacked(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse: [N, L, 4 C] as [N, C, height, width]."""
    count, _, channels = x.shape
    x = x.reshape(count, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(count, channels // 4, height, width)
