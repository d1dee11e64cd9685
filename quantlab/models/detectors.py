"""Faster R-CNN (Ren et al., NeurIPS 2015) and RetinaNet (Lin et al., ICCV 2017) of torchvision, on a feature pyramid.

The networks are torchvision's own: layers and state dict keep its names, so that its weights, saved as .safetensors,
load through `model.weights`. `training_loss` and `detect` are added. The task normalizes images, so torchvision's
transform only resizes and pads. A task's label k is torchvision's class k + 1; class 0 is background.

All levels of the pyramid share the heads. RetinaNet's has a ReLU after every convolution, as the transition-rate paper
asks, so that quantized inputs are non-negative after the first one; the pyramid's maps, its inputs, are signed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign

from quantlab.models.pyramid import build_pyramid

GROUP = 8  # channels per GroupNorm group, as in torchvision's RetinaNet v2: 32 groups for 256 channels


class Detector:
    """What methods and tasks require of a detector, in addition to one of torchvision's classes."""

    kind = "detector"
    body_name = "backbone.body"

    def training_loss(self, batch: dict[str, list[Tensor]]) -> Tensor:
        """Sum of torchvision's losses for images `[C, H, W]`, boxes `[n, 4]` and labels `[n]`; without ignored
        boxes.

        In evaluation mode normalization uses its running statistics, and Faster R-CNN draws the same anchors and
        proposals in every call, so that values compare.
        """
        targets = [
            {"boxes": boxes[~ignored], "labels": labels[~ignored] + 1}
            for boxes, labels, ignored in zip(batch["boxes"], batch["labels"], batch["ignored"], strict=True)
        ]
        if self.training:
            return sum(self(batch["image"], targets).values())
        with self._giving_losses(), torch.random.fork_rng():
            torch.manual_seed(0)
            return sum(self(batch["image"], targets).values())

    @contextmanager
    def _giving_losses(self) -> Iterator[None]:
        # torchvision returns losses if these modules are in training mode; their normalization layers must not be.
        parts = [self, *(module for name, module in self.named_children() if name in ("transform", "rpn", "roi_heads"))]
        for part in parts:
            part.training = True
        try:
            yield
        finally:
            for part in parts:
                part.training = False

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """In evaluation mode: for each image `[C, H, W]` the "boxes" float `[n, 4]` in its pixels, "scores" float `[n]`
        from 0 to 1, descending, and the task's "labels" int64 `[n]`.
        """
        return [found | {"labels": found["labels"] - 1} for found in self(images)]


class FasterRCNN(Detector, detection.FasterRCNN):
    class_layers = ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred")


class RetinaNet(Detector, detection.RetinaNet):
    class_layers = ("head.classification_head.cls_logits",)


def build_faster_rcnn(section: Any, task: Any) -> FasterRCNN:
    """The network of conf/model/faster_rcnn.yaml and its variants, for the channels and classes of `task`. Raises
    RequestError as `build_pyramid`.
    """
    backbone = build_pyramid(section.backbone, section.pyramid, task.channels)
    pooled = MultiScaleRoIAlign(
        [str(index) for index in range(len(section.pyramid.levels))], section.roi.size, sampling_ratio=2
    )
    head = TwoMLPHead(backbone.out_channels * section.roi.size**2, section.roi.features)
    proposals, sampled = section.proposals, section.sampled
    return FasterRCNN(
        backbone,
        **_transform(section, task),
        rpn_anchor_generator=_anchors(section),
        rpn_pre_nms_top_n_train=proposals.train,
        rpn_post_nms_top_n_train=proposals.train,
        rpn_pre_nms_top_n_test=proposals.test,
        rpn_post_nms_top_n_test=proposals.test,
        rpn_batch_size_per_image=sampled.anchors,
        box_batch_size_per_image=sampled.proposals,
        box_roi_pool=pooled,
        box_head=head,
        box_predictor=FastRCNNPredictor(section.roi.features, task.classes + 1),
        box_score_thresh=section.score_threshold,
        box_nms_thresh=section.nms_threshold,
        box_detections_per_img=section.detections,
    )


def build_retinanet(section: Any, task: Any) -> RetinaNet:
    """The network of conf/model/retinanet.yaml and its variants, for the channels and classes of `task`. Raises
    RequestError as `build_pyramid`.
    """
    backbone = build_pyramid(section.backbone, section.pyramid, task.channels)
    anchors = _anchors(section)
    norm = partial(nn.GroupNorm, backbone.out_channels // GROUP) if section.head_norm == "group" else None
    head = RetinaNetHead(
        backbone.out_channels, anchors.num_anchors_per_location()[0], task.classes + 1, norm_layer=norm
    )
    return RetinaNet(
        backbone,
        task.classes + 1,
        **_transform(section, task),
        anchor_generator=anchors,
        head=head,
        score_thresh=section.score_threshold,
        nms_thresh=section.nms_threshold,
        detections_per_img=section.detections,
    )


def _anchors(section: Any) -> AnchorGenerator:
    return AnchorGenerator(
        tuple(map(tuple, section.anchor_sizes)), (tuple(section.anchor_ratios),) * len(section.anchor_sizes)
    )


def _transform(section: Any, task: Any) -> dict[str, Any]:
    return {
        "min_size": section.min_size,
        "max_size": section.max_size,
        "image_mean": [0.0] * task.channels,
        "image_std": [1.0] * task.channels,
    }
