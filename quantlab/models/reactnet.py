"""ReActNet-18 (Liu et al. 2020, "ReActNet", arXiv 2003.03488), a variant of ResNet-18 designed for one bit.

Every 3x3 convolution has its own shortcut (Bi-Real Net), so that real values bypass each binary layer, and is
followed by BatchNorm and an RPReLU. A shortcut that halves the resolution is a 2x2 average pooling, a 1x1 convolution
and a BatchNorm, which the paper leaves in full precision. The convolutions are plain: the quantizer binarizes
their inputs (RSign) and weights.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = (64, 128, 256, 512)
CONVOLUTIONS = 4  # 3x3, of every stage


class RPReLU(nn.Module):
    """PReLU(x - gamma) + zeta with a learned slope and two learned shifts per channel (Eq. 5); `[N, C, H, W]` to
    the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        # Added instead of subtracted, as in the released code: the sign of a learned shift is only notation.
        self.shift_before = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.prelu = nn.PReLU(channels)
        self.shift_after = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(x + self.shift_before) + self.shift_after


class Block(nn.Module):
    """One 3x3 convolution with BatchNorm, added to its shortcut, then an RPReLU."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(after)
        self.act = RPReLU(after)
        self.downsample = nn.Identity()
        if stride > 1 or before != after:
            # Odd sizes: the pooling keeps the last row and column, as the padded convolution does.
            pooling = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(pooling, nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)) + self.downsample(x))


class ReActNet18(nn.Module):
    """float images `[N, channels, H, W]` to logits `[N, classes]`; `small_images`: the first stage sees the full
    resolution.
    """

    kind = "classifier"
    class_layers = ("fc",)

    def __init__(self, channels: int, classes: int, small_images: bool):
        super().__init__()
        stem = (
            nn.Conv2d(channels, STAGES[0], 3, 1, 1, bias=False)
            if small_images
            else nn.Conv2d(channels, STAGES[0], 7, 2, 3, bias=False)
        )
        self.conv1, self.bn1 = stem, nn.BatchNorm2d(STAGES[0])
        self.pool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, 1)
        before, stages = STAGES[0], []
        for stage, width in enumerate(STAGES):
            first = Block(before, width, 2 if stage else 1)
            stages.append(nn.Sequential(first, *(Block(width, width, 1) for _ in range(CONVOLUTIONS - 1))))
            before = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(before, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy (nats) of `batch["image"]` `[N, C, H, W]` against `batch["label"]` int64 `[N]`."""
        return F.cross_entropy(self(batch["image"]), batch["label"])


def build_reactnet(section: Any, task: Any) -> ReActNet18:
    """The network of conf/model/reactnet18.yaml, for the channels and classes of `task`."""
    return ReActNet18(task.channels, task.classes, section.small_images)
