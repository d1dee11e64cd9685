"""What detection on files shares, whatever their format: boxes are read and checked before any work, images decoded when a batch asks
for them."""

import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from quantlab.errors import RequestError, RunError
from quantlab.tasks.detection import DetectionTask
from quantlab.tasks.image_folder import FORMATS

log = logging.getLogger("quantlab")

MOST_WORKERS = 4
ROUNDING = 1.0          # pixels by which a box may reach over its image's border: both formats' boxes are rounded; it is clipped


class Annotated(NamedTuple):
    """One image: its file, width and height in pixels, and for each box x1, y1, x2, y2, its label, and whether it is ignored."""

    file: Path
    size: tuple[int, int]
    boxes: list[tuple[float, float, float, float]]
    labels: list[int]
    ignored: list[bool]


class BoxedFiles(Dataset):
    """Images with boxes in files; items as quantlab.tasks.detection says, RGB. Raises RunError for a file that is damaged or not of the
    size that its boxes were drawn for."""

    def __init__(self, images: list[Annotated]):
        self.images = images
        self.boxes = [torch.tensor(one.boxes, dtype=torch.float32).reshape(-1, 4) for one in images]
        self.labels = [torch.tensor(one.labels, dtype=torch.int64) for one in images]
        self.ignored = [torch.tensor(one.ignored, dtype=torch.bool) for one in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        one = self.images[index]
        return {"image": _read(one.file, one.size), "boxes": self.boxes[index], "labels": self.labels[index],
                "ignored": self.ignored[index]}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        return [self[index] for index in indices]

    def digest(self) -> str:
        """Of names, sizes in bytes, boxes and labels: reading every pixel would take an epoch."""
        digest = hashlib.sha256()
        for one in self.images:
            digest.update(f"{one.file.name} {one.file.stat().st_size} {one[1:]}\n".encode())
        return digest.hexdigest()


def _read(file: Path, size: tuple[int, int]) -> Tensor:
    """uint8 `[3, H, W]`. A camera's note on rotation is left alone, as both data sets' boxes are drawn on the pixels as stored."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            pixels = np.array(image.convert("RGB"))
    except Exception as error:  # a decoder fed with damaged bytes raises almost anything
        raise RunError(f"{file} cannot be read as an image ({type(error).__name__}: {error}); replace it") from error
    if pixels.shape[1::-1] != size:
        raise RunError(f"{file} has {pixels.shape[1]}x{pixels.shape[0]} pixels, but its boxes are drawn for {size[0]}x{size[1]}; "
                       "replace it")
    return torch.from_numpy(pixels.transpose(2, 0, 1))


class DetectionFiles(DetectionTask):
    """What both formats share: the validation part is drawn from the training images, and training does without images that have no box."""

    channels = 3

    def __init__(self, section: Any):
        super().__init__(section)
        self.workers = min(MOST_WORKERS, os.cpu_count() or 1)
        self.root = Path(section.data_dir).expanduser()
        if not self.root.is_dir():
            raise RequestError(f"data_dir {self.root} {'is not a directory' if self.root.exists() else 'does not exist'}; "
                               f"give the folder of {self.name} with data_dir=PATH")

    def _training_and_test(self) -> tuple[list[Annotated], list[Annotated]]:
        raise NotImplementedError  # every format's own

    @functools.cached_property
    def _parts(self) -> dict[str, BoxedFiles]:
        training, test = self._training_and_test()
        training = [one for one in training if not all(one.ignored)]
        order = np.random.default_rng(self.section.split_seed).permutation(len(training))
        held = round(self.section.validation_fraction * len(training))
        if not 0 < held < len(training) - 1:
            raise RequestError(f"task.validation_fraction: got {self.section.validation_fraction}, which leaves {held} of {len(training)} "
                               "training images with boxes for validation; give more images, or type task.validation_fraction=0.1")
        drawn = {"train": sorted(order[held:]), "validation": sorted(order[:held])}
        return {name: BoxedFiles([training[index] for index in chosen]) for name, chosen in drawn.items()} | {"test": BoxedFiles(test)}

    def _sound(self, images: list[Annotated], source: Path) -> list[Annotated]:
        """The images without boxes that are empty or outside; others are clipped to their image. Raises RequestError where there are more
        than `invalid_boxes` of them."""
        kept, first, wrong = [], "", 0
        for one in images:
            width, height = one.size
            good = []
            for index, (x1, y1, x2, y2) in enumerate(one.boxes):
                inside = min(x1, y1) >= -ROUNDING and x2 <= width + ROUNDING and y2 <= height + ROUNDING
                clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
                if inside and clipped[0] < clipped[2] and clipped[1] < clipped[3]:
                    good.append((clipped, one.labels[index], one.ignored[index]))
                    continue
                wrong += 1
                first = first or (f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}] (x1, y1, x2, y2) of {one.file.name}, {width}x{height} pixels, "
                                  + ("is empty" if inside else "reaches outside"))
            kept.append(one._replace(boxes=[box for box, _, _ in good], labels=[label for _, label, _ in good],
                                     ignored=[flag for _, _, flag in good]))
        total = sum(len(one.boxes) for one in images)
        if wrong > self.section.invalid_boxes * total:
            share = min(wrong / total + 0.001, 0.999)
            raise RequestError(f"{source}: {wrong} of {total} boxes cannot be: the first, {first}; allowed: boxes inside their image, "
                               f"wider and taller than 0; correct the file, or leave them out with task.invalid_boxes={share:.3f}")
        if wrong:
            log.info("%s: %d of %d boxes are empty or outside their image and left out; the first, %s", source, wrong, total, first)
        return kept
