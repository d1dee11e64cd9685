"""ResNet-20, 32, 56 for 32x32 images (He et al. 2016, "Deep Residual Learning", Sec. 4.2), with option-A shortcuts.

Three stages of n blocks with 16, 32 and 64 channels (`width`, twice, four times), depth 6 n + 2. A shortcut that halves
the resolution takes every other pixel, pads the new channels with zeros, and has no parameters. With
`final_batch_norm` a BatchNorm precedes the classifier, as in the code of the transition-rate paper.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

OF_THIS_KIND = re.compile(r"(layer[123]\.\d+\.(conv|bn)[12]|conv1|bn1|bn2|fc|linear)\.[a-z_]+$")  # names of tensors


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to the shortcut."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.new_channels = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.new_channels or self.stride > 1:
            half = self.new_channels // 2
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new_channels - half))
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Module):
    """float images `[N, channels, H, W]` to logits `[N, classes]`; designed for 32x32, works from 4x4."""

    kind = "classifier"
    class_layers = ("fc",)

    def __init__(self, channels: int, classes: int, depth: int, width: int, final_batch_norm: bool):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width]
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                *(
                    Block(widths[stage - 1] if first else widths[stage], widths[stage], 2 if first and stage > 1 else 1)
                    for first in [True] + [False] * (blocks - 1)
                )
            )
            for stage in (1, 2, 3)
        )
        self.bn2 = nn.BatchNorm1d(widths[-1]) if final_batch_norm else nn.Identity()
        self.fc = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.bn2(x.mean(dim=(2, 3))))

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy (nats) of `batch["image"]` `[N, C, H, W]` against `batch["label"]` int64 `[N]`."""
        return F.cross_entropy(self(batch["image"]), batch["label"])

    @staticmethod
    def options_of(tensors: Mapping[str, Tensor]) -> dict[str, int | bool]:
        """The config options of a network with such tensors; empty for another kind of network."""
        blocks = {name.split(".")[1] for name in tensors if name.startswith("layer1.")}
        if "conv1.weight" not in tensors or not all(map(OF_THIS_KIND.match, tensors)) or not blocks:
            return {}
        return {
            "model.depth": 6 * len(blocks) + 2,
            "model.width": len(tensors["conv1.weight"]),
            "model.final_batch_norm": "bn2.weight" in tensors,
        }


def build_resnet_cifar(section: Any, task: Any) -> CifarResNet:
    """The network of conf/model/resnet20.yaml and its variants, for the channels and classes of `task`."""
    return CifarResNet(task.channels, task.classes, section.depth, section.width, section.final_batch_norm)
