"""The MobileNet supernet of the N-shot search literature, and the network of one of its subnets.

A 3x3 stem, a depthwise separable block, the searched layers, a 1x1 convolution, mean pooling, a linear layer; ReLU6
throughout, and a shortcut around every inverted residual that keeps resolution and channels. The supernet's BatchNorms
have no weights and no running statistics and use batch statistics also in evaluation, as in the lab's released code; a
single network's have both. `model.dropout` only applies before the classifier of a single network.

`model.initialization`: torch's own, uniform by fan-in, or the released code's (Few-Shot-NAS), normal by fan-out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.search.mobilenet import IDENTITY, KERNEL_AND_EXPANSION, OPERATIONS, Layer, MobileNetSpace, Stage
from quantlab.search.spaces import Subnet


def convolution(before: int, after: int, kernel: int, stride: int, learns: bool, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias and its BatchNorm; `learns`: the BatchNorm has weights and running statistics."""
    return [
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after, affine=learns, track_running_stats=learns),
    ]


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise, 1x1: `[N, before, H, W]` to `[N, after, ceil(H / stride),
    ceil(W / stride)]`.
    """

    def __init__(self, layer: Layer, kernel: int, expansion: int, learns: bool):
        super().__init__()
        inner = expansion * layer.before
        self.body = nn.Sequential(
            *convolution(layer.before, inner, 1, 1, learns),
            nn.ReLU6(),
            *convolution(inner, inner, kernel, layer.stride, learns, groups=inner),
            nn.ReLU6(),
            *convolution(inner, layer.after, 1, 1, learns),
        )
        self.shortcut = layer.stride == 1 and layer.before == layer.after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class MobileNet(nn.Module):
    """float images `[N, channels, H, W]` to logits `[N, classes]`: what the supernet and the network of one subnet
    share.
    """

    class_layers = ("fc",)

    def __init__(
        self, space: MobileNetSpace, offered: list[tuple[int, ...]], dropout: float, learns: bool, initialization: str
    ):
        """offered: the operations of each layer; dropout: fraction before the classifier; initialization: torch,
        he_fan_out.
        """
        super().__init__()
        self.space, self.initialization = space, initialization
        self.stem = nn.Sequential(*convolution(space.channels, space.stem, 3, space.stem_stride, learns), nn.ReLU6())
        self.first = nn.Sequential(
            *convolution(space.stem, space.stem, 3, 1, learns, groups=space.stem),
            nn.ReLU6(),
            *convolution(space.stem, space.first, 1, 1, learns),
        )
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    OPERATIONS[operation]: InvertedResidual(layer, *KERNEL_AND_EXPANSION[operation], learns)
                    for operation in operations
                    if operation != IDENTITY
                }
            )
            for layer, operations in zip(space.layers, offered)
        )
        self.last = nn.Sequential(*convolution(space.layers[-1].after, space.last, 1, 1, learns), nn.ReLU6())
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(space.last, space.classes)
        self.initialize()

    def initialize(self) -> None:
        """Re-draw weights as `initialization` says. He fan-out: a normal distribution of variance 2 / (k^2 output
        channels) for convolutions, including depthwise ones, whose true fan-out is smaller; a uniform classifier with
        zero bias.
        """
        if self.initialization == "he_fan_out":
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                elif isinstance(module, nn.Linear):
                    nn.init.uniform_(module.weight, -(module.in_features**-0.5), module.in_features**-0.5)
                    nn.init.zeros_(module.bias)

    def logits(self, images: Tensor, subnet: Subnet) -> Tensor:
        x = self.stem_output(images)
        for layer, operation in enumerate(subnet):
            x = self.apply_layer(layer, operation, x)
        return self.logits_from(x)

    def stem_output(self, images: Tensor) -> Tensor:
        """The input of the first searched layer."""
        x = self.first(self.stem(images))
        # faster on CPUs for depthwise and 1x1 convolutions
        return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x

    def apply_layer(self, layer: int, operation: int, x: Tensor) -> Tensor:
        """One searched layer."""
        return x if operation == IDENTITY else self.layers[layer][OPERATIONS[operation]](x)

    def logits_from(self, x: Tensor) -> Tensor:
        """From the output of the last searched layer to logits."""
        return self.fc(self.dropout(self.last(x).mean(dim=(2, 3))))

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy (nats) of `batch["image"]` `[N, C, H, W]` against `batch["label"]` int64 `[N]`."""
        return F.cross_entropy(self(batch["image"]), batch["label"])


class MobileNetSupernet(MobileNet):
    """All subnets in one network, of which the `active` one is computed; initially the last of the space."""

    kind = "supernet"

    def __init__(self, space: MobileNetSpace, initialization: str = "torch"):
        super().__init__(
            space, [space.choices(layer) for layer in range(len(space.decisions))], 0.0, False, initialization
        )
        self.activate(space.subnet(space.size - 1))

    def activate(self, subnet: Subnet) -> None:
        """Switch to another subnet, without building or moving anything."""
        self.active = subnet

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images, self.active)

    def logits_of(self, images: Tensor, subnets: Sequence[Subnet]) -> Tensor:
        """`[len(subnets), N, classes]`, as if activating each in turn; leading layers that a subnet shares with its
        predecessor in sorted order are not recomputed.
        """
        logits: dict[Subnet, Tensor] = {}
        before: Subnet = ()
        outputs = [self.stem_output(images)]  # of the first layers of `before`, as many as the next subnet shares
        for subnet in sorted(set(subnets)):
            shared = next((layer for layer, (one, other) in enumerate(zip(before, subnet)) if one != other), 0)
            del outputs[shared + 1 :]
            for layer in range(shared, len(subnet)):
                outputs.append(self.apply_layer(layer, subnet[layer], outputs[-1]))
            logits[subnet], before = self.logits_from(outputs[-1]), subnet
        return torch.stack([logits[subnet] for subnet in subnets])

    def operation_parameters(self, decision: int, operation: int) -> list[nn.Parameter]:
        """The weights of one operation in one layer."""
        return [] if operation == IDENTITY else list(self.layers[decision][OPERATIONS[operation]].parameters())


class MobileNetNetwork(MobileNet):
    """The network of one subnet, a plain classifier."""

    kind = "classifier"

    def __init__(self, space: MobileNetSpace, subnet: Subnet, dropout: float, initialization: str = "torch"):
        super().__init__(space, [(operation,) for operation in subnet], dropout, True, initialization)
        self.subnet = subnet

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images, self.subnet)


def _stages(section: Any) -> list[Stage]:
    return [Stage(stage.channels, stage.layers, stage.stride) for stage in section.stages]


def space_of(section: Any) -> MobileNetSpace:
    """The space of a section, for ImageNet's images."""
    return MobileNetSpace(_stages(section))


def build_mobilenet_supernet(section: Any, task: Any) -> MobileNet:
    """The supernet of conf/model/mobilenet_supernet.yaml, or with `section.subnet` the network of that subnet, sized by
    `task`.

    Raises RequestError for an encoding outside the space.
    """
    space = MobileNetSpace(
        _stages(section),
        section.stem,
        section.first,
        section.last,
        section.stem_stride,
        task.image_size,
        task.channels,
        task.classes,
    )
    if section.subnet is None:
        return MobileNetSupernet(space, section.initialization)
    return MobileNetNetwork(
        space, space.decode(section.subnet, key="model.subnet"), section.dropout, section.initialization
    )
