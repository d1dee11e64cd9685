"""A classifier's feature maps brought to one width: "Feature Pyramid Networks for Object Detection", Lin et al., CVPR
2017.

Level l has one pixel for 2^l x 2^l of the image (C_l and P_l of the paper, Sec. 3). The body is torchvision's ResNet,
whose names match torchvision's detection weights, or any timm network that provides feature maps.
"""

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from quantlab.errors import RequestError, did_you_mean
from quantlab.models.timm_classifier import first_line, require_known

TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


class Pyramid(nn.Module):
    """float images `[N, C, H, W]` to feature maps by name, finest first: each `[N, out_channels, H / 2^l, W /
    2^l]`, rounded up.
    """

    def __init__(self, body: nn.Module, body_channels: list[int], section: Any):
        super().__init__()
        self.body = body
        self.out_channels = section.channels
        extra = {
            "none": lambda: None,
            "pool": LastLevelMaxPool,
            "p6p7": lambda: LastLevelP6P7(section.channels, section.channels),
        }
        self.fpn = FeaturePyramidNetwork(
            body_channels,
            section.channels,
            extra_blocks=extra[section.extra_levels](),
            norm_layer=nn.BatchNorm2d if section.norm == "batch" else None,
        )

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        maps = self.body(images)
        if isinstance(maps, list):  # timm's
            maps = OrderedDict((str(index), one) for index, one in enumerate(maps))
        return self.fpn(maps)


def build_pyramid(backbone: Any, pyramid: Any, channels: int) -> Pyramid:
    """The network of a detector's `backbone` and `pyramid` sections for images of `channels` channels, with random
    weights.

    Raises RequestError for an architecture that the library does not have, or that lacks the requested levels.
    """
    build = {"torchvision": _torchvision, "timm": _timm}[backbone.library]
    return Pyramid(*build(backbone, pyramid.levels, channels), pyramid)


def _torchvision(backbone: Any, levels: list[int], channels: int) -> tuple[nn.Module, list[int]]:
    from torchvision.models import resnet
    from torchvision.models._utils import IntermediateLayerGetter

    if backbone.architecture not in TORCHVISION:
        near = did_you_mean(backbone.architecture, TORCHVISION)
        raise RequestError(
            f"model.backbone.architecture: got '{backbone.architecture}', allowed with library=torchvision: "
            f"{', '.join(TORCHVISION)}{near}; for others type model.backbone.library=timm"
        )
    _require_levels(backbone, levels, dict.fromkeys((2, 3, 4, 5), 0))
    # torchvision's trained detectors use eps = 0 (its overwrite_eps)
    norm = nn.BatchNorm2d if backbone.norm == "batch" else partial(FrozenBatchNorm2d, eps=0.0)
    network = getattr(resnet, backbone.architecture)(weights=None, norm_layer=norm)
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    widest = network.fc.in_features  # of level 5; each lower level has half as many channels
    body = IntermediateLayerGetter(network, {f"layer{level - 1}": str(index) for index, level in enumerate(levels)})
    return body, [widest // 2 ** (5 - level) for level in levels]


def _timm(backbone: Any, levels: list[int], channels: int) -> tuple[nn.Module, list[int]]:
    import timm
    from timm.layers import freeze_batch_norm_2d

    key, name = "model.backbone.architecture", backbone.architecture
    require_known(name, key)
    try:
        with torch.device("meta"):  # only to query its levels
            whole = timm.create_model(name, features_only=True, in_chans=channels)
        places = {reduction.bit_length() - 1: index for index, reduction in enumerate(whole.feature_info.reduction())}
        _require_levels(backbone, levels, places)
        chosen = [places[level] for level in levels]
        body = timm.create_model(name, features_only=True, in_chans=channels, out_indices=chosen)
        widths = body.feature_info.channels()
        with torch.no_grad():
            shapes = [one.shape[1] for one in body.eval()(torch.zeros(1, channels, 64, 64))]
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(
            f"{key}: timm's '{name}' gives no feature maps of images of any size ({first_line(error)}); "
            f"type {key}=resnet18, or another convolutional network's name"
        ) from error
    if shapes != widths:
        raise RequestError(
            f"{key}: timm's '{name}' does not put channels first; type {key}=resnet18, or another convolutional "
            "network's name"
        )
    body.train()
    return (freeze_batch_norm_2d(body) if backbone.norm == "frozen_batch" else body), widths


def _require_levels(backbone: Any, levels: list[int], there: dict[int, int]) -> None:
    lacking = [level for level in levels if level not in there]
    if lacking:
        known = list(there)
        raise RequestError(
            f"model.pyramid.levels: got {levels}, but {backbone.architecture} has no level {lacking[0]}, allowed: some"
            f" of {', '.join(map(str, known))}; type model.pyramid.levels=[{','.join(map(str, known[-2:]))}]"
        )
