"""Detection on files of any format: boxes are read and checked before any work, images decoded when a batch needs
them.
"""

import functools
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from quantlab.errors import RequestError, RunError
from quantlab.tasks.base import validation_count
from quantlab.tasks.detection import DetectionTask
from quantlab.tasks.image_folder import decode

log = logging.getLogger("quantlab")

MOST_WORKERS = 4
# pixels by which a box may exceed its image before clipping: boxes are rounded in both formats
ROUNDING = 1.0


class BoxedImage(NamedTuple):
    """One image: its file, width and height in pixels, and for each box x1, y1, x2, y2, its label, whether it is
    ignored, and its name in the file (`annotation 7`), for messages.
    """

    file: Path
    size: tuple[int, int]
    boxes: list[tuple[float, float, float, float]]
    labels: list[int]
    ignored: list[bool]
    sources: list[str]


class BoxedFiles(Dataset):
    """Images with boxes in files; RGB items as in quantlab.tasks.detection. Raises RunError for a file that is damaged
    or does not have the size that its boxes were drawn for.
    """

    def __init__(self, images: list[BoxedImage]):
        self.images = images
        self.boxes = [torch.tensor(one.boxes, dtype=torch.float32).reshape(-1, 4) for one in images]
        self.labels = [torch.tensor(one.labels, dtype=torch.int64) for one in images]
        self.ignored = [torch.tensor(one.ignored, dtype=torch.bool) for one in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        one = self.images[index]
        return {
            "image": _read(one.file, one.size),
            "boxes": self.boxes[index],
            "labels": self.labels[index],
            "ignored": self.ignored[index],
        }

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        return [self[index] for index in indices]

    def digest(self) -> str:
        """A hash of names, sizes in bytes, boxes and labels: reading every pixel would take an epoch."""
        digest = hashlib.sha256()
        for one in self.images:
            digest.update(f"{one.file.name} {one.file.stat().st_size} {one[1:5]}\n".encode())
        return digest.hexdigest()


def _read(file: Path, size: tuple[int, int]) -> Tensor:
    """uint8 `[3, H, W]`. EXIF rotation is not applied: in both data sets, boxes are drawn on the stored pixels."""
    try:
        pixels = np.array(decode(file, channels=3, upright=False))
    except RequestError as error:
        raise RunError(str(error)) from None  # only found in the middle of the run
    if pixels.shape[1::-1] != size:
        raise RunError(
            f"{file} has {pixels.shape[1]}x{pixels.shape[0]} pixels, but its boxes are drawn for {size[0]}x{size[1]}; "
            "replace it"
        )
    return torch.from_numpy(pixels.transpose(2, 0, 1))


class DetectionFiles(DetectionTask):
    """Base of both formats: the validation part is drawn from the training images, and images without boxes are not
    trained on.
    """

    channels = 3

    def __init__(self, section: Any):
        super().__init__(section)
        self.workers = min(MOST_WORKERS, os.cpu_count() or 1)
        self.root = Path(section.data_dir).expanduser()
        if not self.root.is_dir():
            raise RequestError(
                f"data_dir {self.root} {'is not a directory' if self.root.exists() else 'does not exist'}; "
                f"give the folder of {self.name} with data_dir=PATH"
            )

    def _training_and_test(self) -> tuple[list[BoxedImage], list[BoxedImage]]:
        raise NotImplementedError  # defined by every format

    @functools.cached_property
    def _parts(self) -> dict[str, BoxedFiles]:
        training, test = self._training_and_test()
        self._refuse_repeated([one.file for one in (*training, *test)])
        with_boxes = [one for one in training if not all(one.ignored)]
        if len(with_boxes) < len(training):
            log.info(
                "task %s: %d of %d training images have no box and are not trained on",
                self.name,
                len(training) - len(with_boxes),
                len(training),
            )
        training = with_boxes
        order = np.random.default_rng(self.section.split_seed).permutation(len(training))
        held = validation_count(len(training), self.section.validation_fraction, least=2)
        drawn = {"train": sorted(order[held:]), "validation": sorted(order[:held])}
        return {name: BoxedFiles([training[index] for index in chosen]) for name, chosen in drawn.items()} | {
            "test": BoxedFiles(test)
        }

    def _refuse_repeated(self, files: list[Path]) -> None:
        """Raises RequestError for images that are listed more than once: parts have to be disjoint."""
        repeated = [file for file, count in Counter(files).items() if count > 1]
        if repeated:
            raise RequestError(
                f"task.train={self.section.train} task.test={self.section.test}: {len(repeated)} images are in them"
                f" more than once, the first is {repeated[0]}, allowed: disjoint sets; name others, or"
                " correct their files"
            )

    def _sound(self, images: list[BoxedImage], source: Path) -> list[BoxedImage]:
        """The images without empty boxes and boxes outside; all others are clipped to their image. Raises RequestError
        if more than the share `invalid_boxes` is invalid.
        """
        kept, first, wrong = [], "", 0
        for one in images:
            width, height = one.size
            good = []
            for index, (x1, y1, x2, y2) in enumerate(one.boxes):
                inside = min(x1, y1) >= -ROUNDING and x2 <= width + ROUNDING and y2 <= height + ROUNDING
                clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
                if inside and clipped[0] < clipped[2] and clipped[1] < clipped[3]:
                    good.append((clipped, one.labels[index], one.ignored[index], one.sources[index]))
                    continue
                wrong += 1
                first = first or (
                    f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}] (x1, y1, x2, y2) of {one.sources[index]} in {one.file.name}, "
                    f"{width}x{height} pixels, " + ("is empty" if inside else "reaches outside")
                )
            boxes, labels, ignored, sources = (list(values) for values in zip(*good)) if good else ([], [], [], [])
            kept.append(one._replace(boxes=boxes, labels=labels, ignored=ignored, sources=sources))
        total = sum(len(one.boxes) for one in images)
        if wrong > self.section.invalid_boxes * total:
            share = wrong / total + 0.001
            remedy = f", or leave them out with task.invalid_boxes={share:.3f}" if share < 0.9995 else ""
            raise RequestError(
                f"{source}: {wrong} of {total} boxes are invalid: the first, {first}; allowed: boxes inside their "
                f"image, wider and taller than 0; correct the file{remedy}"
            )
        if wrong:
            log.info(
                "%s: %d of %d boxes are empty or outside their image and left out; the first, %s",
                source,
                wrong,
                total,
                first,
            )
        return kept
