"""EDSR: "Enhanced Deep Residual Networks for Single Image Super-Resolution", Lim et al., CVPR workshops 2017 (arXiv
1707.02921).

Residual blocks without batch normalization (Fig. 2), each scaled by `residual_scale` before it is added (Sec. 3.3: 0.1
in the large model), one skip around all of them, and sub-pixel convolutions at the end (Fig. 3). Baseline: 16 blocks,
64 channels; EDSR: 32 and 256. Trained with the L1 loss (Sec. 4.2). The mean colour of DIV2K is subtracted first and
added back at the end, as in the authors' code; values are in [0, 1] here and 0 to 255 there.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # of its training images, RGB


class ResidualBlock(nn.Module):
    """x + residual_scale * conv2(relu(conv1(x))); Fig. 2 (c)."""

    def __init__(self, channels: int, residual_scale: float):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual_scale * self.conv2(F.relu(self.conv1(x)))


class EDSR(nn.Module):
    """float RGB `[N, 3, h, w]` in [0, 1] to `[N, 3, scale h, scale w]`, not clamped; scale 2, 3 or 4, any h and w."""

    kind = "super_resolver"

    def __init__(self, scale: int, blocks: int, channels: int, residual_scale: float):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels, residual_scale) for _ in range(blocks)))
        self.conv_after_blocks = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsampler = nn.Sequential()
        for factor in (2, 2) if scale == 4 else (scale,):
            self.upsampler.extend([nn.Conv2d(channels, factor**2 * channels, 3, padding=1), nn.PixelShuffle(factor)])
        self.tail = nn.Conv2d(channels, 3, 3, padding=1)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(3, 1, 1), persistent=False)

    def forward(self, low: Tensor) -> Tensor:
        x = self.head(low - self.mean)
        x = x + self.conv_after_blocks(self.blocks(x))
        return self.tail(self.upsampler(x)) + self.mean

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """L1: mean absolute difference, in [0, 1], between the output for `batch["low"]` `[N, 3, h, w]` and
        `batch["high"]`.
        """
        return F.l1_loss(self(batch["low"]), batch["high"])

    @staticmethod
    def options_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """The config options of a network with such tensors; empty for another kind of network."""
        blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
        if not {"head.weight", "upsampler.0.weight"} <= tensors.keys() or not blocks:
            return {}
        channels = len(tensors["head.weight"])
        scale = 4 if "upsampler.2.weight" in tensors else math.isqrt(len(tensors["upsampler.0.weight"]) // channels)
        return {"model.blocks": len(blocks), "model.channels": channels, "task.scale": scale}


def build_edsr(section: Any, task: Any) -> EDSR:
    """The network of conf/model/edsr.yaml and its variants, for the scale of `task`."""
    return EDSR(task.scale, section.blocks, section.channels, section.residual_scale)
