"""Scenes of handwritten digits to detect: scikit-learn's 8x8 digits, enlarged, on a noisy canvas, with exact boxes.

The scenes are synthetic, the digits are real. A scene depends only on its part's digits and a seed; training,
validation and test scenes use disjoint digits.
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from quantlab.tasks import datasets
from quantlab.tasks.detection import DetectionTask

ATTEMPTS = 20  # to find a free position for a digit before it is left out
PARTS = ("train", "validation", "test")


def ink(digit: np.ndarray) -> np.ndarray:
    """A digit uint8 `[8, 8]` cropped to its pixels above zero."""
    rows, columns = np.flatnonzero(digit.any(axis=1)), np.flatnonzero(digit.any(axis=0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def compose_scene(
    generator: np.random.Generator,
    digits: np.ndarray,
    labels: np.ndarray,
    size: int,
    count: Sequence[int],
    scales: Sequence[int],
    background: float,
    noise: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One scene: an image uint8 `[1, size, size]`, boxes float32 `[n, 4]` (x1, y1, x2, y2 in pixels), labels int64
    `[n]`.

    digits: uint8 `[N, 8, 8]` and their `labels` int64 `[N]`, to draw from with replacement. count: fewest and most
    digits. scales: integer factors; each pixel becomes a square of that side. background, noise: mean and standard
    deviation of the canvas, in grey levels. Boxes do not overlap; a digit without a free position is left out, except
    the first, which always has one. A digit's grey value is its opacity.
    """
    canvas = background + noise * generator.standard_normal((size, size))
    boxes, drawn = [], []
    for _ in range(generator.integers(count[0], count[1] + 1)):
        index, scale = generator.integers(len(digits)), scales[generator.integers(len(scales))]
        opacity = ink(digits[index]).repeat(scale, axis=0).repeat(scale, axis=1) / 255
        height, width = opacity.shape
        for _ in range(ATTEMPTS):
            y, x = generator.integers(size - height + 1), generator.integers(size - width + 1)
            box = (x, y, x + width, y + height)
            if not any(box[0] < x2 and x1 < box[2] and box[1] < y2 and y1 < box[3] for x1, y1, x2, y2 in boxes):
                place = canvas[y : y + height, x : x + width]
                place += opacity * (255 - place)
                boxes.append(box)
                drawn.append(index)
                break
    image = np.rint(canvas).clip(0, 255).astype(np.uint8)[None]
    return image, np.array(boxes, dtype=np.float32), labels[drawn]


class Scenes(Dataset):
    """Images with boxes in memory; items as in quantlab.tasks.detection. images: uint8 `[N, C, H, W]`."""

    def __init__(self, images: Tensor, boxes: list[Tensor], labels: list[Tensor]):
        self.images, self.boxes, self.labels = images, boxes, labels
        self.ignored = [torch.zeros(len(one), dtype=torch.bool) for one in boxes]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "image": self.images[index],
            "boxes": self.boxes[index],
            "labels": self.labels[index],
            "ignored": self.ignored[index],
        }

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        return [self[index] for index in indices]

    def digest(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in (self.images, *self.boxes, *self.labels):
            digest.update(np.ascontiguousarray(tensor))
        return digest.hexdigest()


class DigitScenes(DetectionTask):
    """task=detection."""

    channels = 1
    class_names = [str(digit) for digit in range(10)]

    @functools.cached_property
    def _digits(self) -> dict[str, np.ndarray]:
        """The indices of the 1,797 digits that each part's scenes use."""
        order = np.random.default_rng(self.section.split_seed).permutation(len(datasets.load_digits()[1]))
        test, validation = (
            round(share * len(order)) for share in (self.section.test_fraction, self.section.validation_fraction)
        )
        return {
            "train": order[test + validation :],
            "validation": order[test : test + validation],
            "test": order[:test],
        }

    @functools.cached_property
    def _parts(self) -> dict[str, Scenes]:
        return {name: self._compose(name) for name in PARTS}

    def _compose(self, part: str) -> Scenes:
        section = self.section
        images, labels = datasets.load_digits()
        chosen = self._digits[part]
        generator = np.random.default_rng([section.split_seed, PARTS.index(part)])
        scenes = [
            compose_scene(
                generator,
                images[chosen, 0],
                labels[chosen],
                section.image_size,
                section.digits_per_scene,
                section.scales,
                section.background,
                section.noise,
            )
            for _ in range(getattr(section.scenes, part))
        ]
        return Scenes(
            torch.from_numpy(np.stack([image for image, _, _ in scenes])),
            [torch.from_numpy(boxes) for _, boxes, _ in scenes],
            [torch.from_numpy(drawn) for _, _, drawn in scenes],
        )
