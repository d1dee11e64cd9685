"""What the YAMLs of detectors may hold. The values' meaning is said there."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from quantlab.config.fields import (
    Fraction,
    Images,
    ImagesFromTwo,
    Layers,
    Name,
    OpenFraction,
    Pixels,
    Positive,
    Strict,
    Width,
    at_most,
)
from quantlab.config.models.base import Model
from quantlab.config.sections import Parts

EXTRA_LEVELS = {"none": 0, "pool": 1, "p6p7": 2}  # how many levels model.pyramid.extra_levels adds


class Backbone(Strict):
    library: Literal["torchvision", "timm"]
    architecture: Name
    norm: Literal["batch", "frozen_batch"]


class Pyramid(Strict):
    levels: Annotated[list[Layers], Field(min_length=1)]
    channels: Width
    norm: Literal["none", "batch"]
    extra_levels: Literal["none", "pool", "p6p7"]


class Proposals(Strict):
    train: Images
    test: Images


class Sampled(Strict):
    anchors: ImagesFromTwo
    proposals: ImagesFromTwo


class RegionsOfInterest(Strict):
    size: Pixels
    features: Width


class Detector(Model, default_for="detector"):
    kind = "detector"
    task_kinds = ("detection",)
    backbone: Backbone
    pyramid: Pyramid
    min_size: Pixels
    max_size: Pixels
    anchor_sizes: Annotated[list[Annotated[list[Pixels], Field(min_length=1)]], Field(min_length=1)]
    anchor_ratios: Annotated[list[Positive], Field(min_length=1)]
    score_threshold: Fraction
    nms_threshold: OpenFraction
    detections: Images

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        pyramid, sizes = self.pyramid, self.anchor_sizes
        yield from at_most("model.min_size", self.min_size, "model.max_size", self.max_size)
        if pyramid.levels != sorted(set(pyramid.levels)):
            yield (
                f"model.pyramid.levels: got {pyramid.levels}, allowed: each once, finest first; "
                f"type model.pyramid.levels={_typed(sorted(set(pyramid.levels)))}"
            )
        levels = len(pyramid.levels) + EXTRA_LEVELS[pyramid.extra_levels]
        if len(sizes) != levels:
            fitting = [[2 ** (pyramid.levels[0] + 2 + level)] for level in range(levels)]
            yield (
                f"model.anchor_sizes: got {len(sizes)} lists, allowed: one per level of the pyramid,"
                f" {len(pyramid.levels)} of levels and {levels - len(pyramid.levels)} of"
                f" extra_levels={pyramid.extra_levels}; type model.anchor_sizes={_typed(fitting)}"
            )
        elif len({len(one) for one in sizes}) > 1:
            yield (
                f"model.anchor_sizes: got {_typed(sizes)}, allowed: as many sizes at every level, whose head they"
                f" share; type model.anchor_sizes={_typed([one[:1] for one in sizes])}"
            )


class FasterRCNN(Detector, target="quantlab.models.detectors.build_faster_rcnn"):
    proposals: Proposals
    sampled: Sampled
    roi: RegionsOfInterest


class RetinaNet(Detector, target="quantlab.models.detectors.build_retinanet"):
    head_norm: Literal["none", "group"]

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        channels = self.pyramid.channels
        if self.head_norm == "group" and channels % 8:
            yield (
                f"model.pyramid.channels: got {channels}, allowed with head_norm=group: multiples of 8; "
                f"type model.pyramid.channels={8 * max(round(channels / 8), 1)}"
            )


def _typed(value: list) -> str:
    """A list of numbers, or of lists of them, as one types it."""
    return str(value).replace(" ", "")
