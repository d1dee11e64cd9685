"""A small classifier trained once on a task's labels: the default feature network of the Frechet distance.

Inception was trained on photographs of objects and its features say little about an 8x8 digit. A classifier of the
task's own labels separates what matters in the task, trains in seconds, and needs no download. Values compare only
between runs that share it, so its weights are cached under a key of its config and the task's data.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.errors import RequestError

STAGES = 3


class TaskClassifier(nn.Module):
    """Three stages of `width`, `2 width` and `4 width` channels, mean pooling, a linear layer to the features, logits.

    The first stage, at full resolution, is one 3x3 convolution; the others are two.

    Group normalization, because the weights are averaged during training, and batch statistics would have to be as
    well. Each stage ends by halving the resolution as long as more than 4 pixels are left, so that 8x8 images work too.
    """

    kind = "classifier"
    class_layers = ("classify",)

    def __init__(self, channels: int, classes: int, width: int = 32, features: int = 64):
        super().__init__()
        self.num_features = features
        widths = [width * 2**stage for stage in range(STAGES)]
        self.stages = nn.ModuleList([nn.Sequential(*_convolution(channels, width))])
        for before, after in zip(widths, widths[1:]):
            self.stages.append(nn.Sequential(*_convolution(before, after), *_convolution(after, after)))
        self.project = nn.Linear(widths[-1], features)
        self.classify = nn.Linear(features, classes)

    def features(self, images: Tensor) -> Tensor:
        """float images `[N, C, H, W]` in [-1, 1] to the features `[N, num_features]` that distances are measured in."""
        hidden = images
        for stage in self.stages:
            hidden = stage(hidden)
            if min(hidden.shape[-2:]) > 4:
                hidden = F.max_pool2d(hidden, 2)
        return F.silu(self.project(hidden.mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        """float images `[N, C, H, W]` in [-1, 1] to logits `[N, classes]`."""
        return self.classify(self.features(images))

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy (nats) of `batch["image"]` `[N, C, H, W]` against `batch["label"]` int64 `[N]`."""
        return F.cross_entropy(self(batch["image"]), batch["label"])

    @staticmethod
    def options_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """The config options of a network with such tensors; empty for another kind of network."""
        if not {"stages.0.0.weight", "project.weight"} <= tensors.keys():
            return {}
        return {"model.width": len(tensors["stages.0.0.weight"]), "model.features": len(tensors["project.weight"])}


def build_task_classifier(section: Any, task: Any) -> TaskClassifier:
    """The classifier that `conf/model/task_classifier.yaml` describes, for the channels and classes of `task`.

    Raises:
        RequestError: the task has no labels to train on.
    """
    if task.classes is None:
        raise RequestError(
            f"task {task.name} has no labels, so no classifier can be trained on them; sort the images into one"
            " sub-folder per class"
        )
    return TaskClassifier(task.channels, task.classes, width=section.width, features=section.features)


def _convolution(before: int, after: int) -> tuple[nn.Module, ...]:
    groups = math.gcd(8, after)
    return nn.Conv2d(before, after, 3, padding=1, bias=False), nn.GroupNorm(groups, after), nn.SiLU(inplace=True)
