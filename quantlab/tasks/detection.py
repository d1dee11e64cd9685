"""Object detection: images with boxes, batching, and evaluation of boxes. Subclasses define the source of the data.

An item is `{"image": uint8 [C, H, W], "boxes": float32 [n, 4], "labels": int64 [n], "ignored": bool [n]}`, a batch has
the same keys with lists. Boxes are x1, y1, x2, y2 in pixels: a box encloses the columns x1 to x2 - 1 and the rows y1 to
y2 - 1. An ignored box (a crowd of COCO, a difficult object of VOC) is not trained on and does not count in evaluation.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from quantlab.errors import RequestError
from quantlab.report.boxes import Boxes, detection_grid
from quantlab.tasks.base import ImageTask, iterate_batches, require_channels, to_device

MEASURED = {"map": "map", "map_50": "map50", "map_75": "map75"}  # torchmetrics' names: ours


def collate(items: list[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Items to a batch: a list per key, because images differ in size and in their number of boxes."""
    return {key: [item[key] for item in items] for key in items[0]}


def flip(image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """An image `[C, H, W]` (any dtype) and its boxes `[n, 4]`, mirrored left to right: x becomes W - x."""
    width = image.shape[-1]
    return image.flip(-1), torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


class DetectionTask(ImageTask):
    """Images with boxes: disjoint training, validation and test parts.

    A part is a dataset of items as described in the module's docstring, with `boxes`, `labels` and `ignored` of all its
    images as lists of tensors, and `digest()`, a sha256 (hex) of everything its items contain or are read from.
    """

    kind = "detection"
    main_metric = "map"  # of `evaluate`; higher is better
    draws = True
    collate = staticmethod(collate)
    channels: int
    class_names: list[str]

    def __init__(self, section: Any):
        # not the base class's: images have different sizes here
        self.section, self.name, self.evaluation = section, section.name, section.evaluation
        require_channels(section, self.channels)

    @property
    def classes(self) -> int:
        """Labels are 0 .. classes - 1, without a background class, which detectors add themselves."""
        return len(self.class_names)

    @functools.cached_property
    def _parts(self) -> dict[str, Dataset]:
        """The "train", "validation" and "test" part. Raises RequestError as `check`."""
        raise NotImplementedError  # defined by every task

    def part(self, name: str) -> Dataset:
        return self._parts[name]

    def check(self) -> None:
        """Raises RequestError for unusable data: as documented by each task, and for a part without any box."""
        for name, part in self._parts.items():
            if not any(len(boxes) for boxes in part.boxes):
                raise RequestError(
                    f"task {self.name}: the {len(part)} images of the {name} part have no box at all, allowed: at least"
                    " one box in every part; give images that have boxes"
                )

    def fingerprint(self) -> str:
        """As in the base class, of everything that weights trained here depend on: images, boxes, labels, augmentation,
        normalization.
        """
        shaping = self.section.model_dump(include={"augmentation", "normalization"})
        return hashlib.sha256((self.part("train").digest() + json.dumps(shaping, sort_keys=True)).encode()).hexdigest()

    def dataset(self) -> Dataset:
        return self.part("train")

    def prepare(self, batch: dict[str, list[Tensor]], train: bool) -> dict[str, list[Tensor]]:
        """Images as float32 `[C, H, W]`, `(x / 255 - mean) / std` per channel; in training randomly mirrored, if the
        task says so.
        """
        images, boxes = batch["image"], batch["boxes"]
        if train and self.section.augmentation.horizontal_flip:
            mirrored = (torch.rand(len(images)) < 0.5).tolist()
            pairs = [flip(*pair) if turn else pair for *pair, turn in zip(images, boxes, mirrored, strict=True)]
            images, boxes = [image for image, _ in pairs], [box for _, box in pairs]
        return batch | {"image": [self.normalize(image) for image in images], "boxes": boxes}

    def normalize(self, image: Tensor) -> Tensor:
        """`[C, H, W]` with values 0 to 255 to float32."""
        mean, std = (
            torch.tensor(values, device=image.device).view(-1, 1, 1)
            for values in (self.section.normalization.mean, self.section.normalization.std)
        )
        return (image.to(torch.float32) / 255 - mean) / std

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, split: str, device: torch.device, progress: Callable[..., Iterable] | None = None
    ) -> dict[str, float]:
        """`map`, `map50`, `map75` of `model`, in evaluation mode, on a part, in percent: COCO's mean average precision
        over classes and IoU from 0.50 to 0.95, at 0.50, at 0.75, of at most 100 boxes an image (torchmetrics around
        pycocotools).

        On the validation part also `loss`, the mean over images, which selects the best checkpoint and takes a second
        forward pass.
        """
        from torchmetrics.detection import MeanAveragePrecision

        part = self.part(split)
        # Every process evaluates the whole part; torchmetrics would otherwise gather all their detections
        metric = MeanAveragePrecision(backend="pycocotools", sync_on_compute=False)
        metric.warn_on_many_detections = False
        loader = DataLoader(part, self.section.evaluation.batch_size, collate_fn=self.collate, num_workers=self.workers)
        was_training, loss = model.training, 0.0
        model.eval()
        for raw in iterate_batches(progress(loader, f"{split} boxes") if progress else loader):
            batch = self.prepare(to_device(raw, device), train=False)
            found = to_device(model.detect(batch["image"]), torch.device("cpu"))
            metric.update(
                found,
                [
                    {"boxes": boxes, "labels": labels, "iscrowd": ignored.long()}
                    for boxes, labels, ignored in zip(raw["boxes"], raw["labels"], raw["ignored"], strict=True)
                ],
            )
            if split == "validation":
                loss += float(model.training_loss(batch)) * len(found)
        model.train(was_training)
        computed = metric.compute()
        values = {ours: 100 * float(computed[theirs]) for theirs, ours in MEASURED.items()}
        return values | ({"loss": loss / len(part)} if split == "validation" else {})

    def protocol(self) -> dict[str, Any]:
        """The data that precision was measured on."""
        sizes = {f"{name}_images": len(part) for name, part in self._parts.items()}
        return sizes | {
            "test_boxes": sum(len(boxes) for boxes in self.part("test").boxes),
            "split_seed": self.section.split_seed,
        }

    @torch.no_grad()
    def draw(self, models: dict[str, nn.Module], folder: Path, device: torch.device) -> None:
        """`folder/detections.png`: a row per model with the first test images, true boxes and detections."""
        evaluation, part = self.section.evaluation, self.part("test")
        raw = self.collate(part.__getitems__(range(min(evaluation.drawn_images, len(part)))))
        images = [image.permute(1, 2, 0).numpy() for image in raw["image"]]
        true = [self._boxes(boxes, labels) for boxes, labels in zip(raw["boxes"], raw["labels"], strict=True)]
        rows = {}
        for label, model in models.items():
            was_training = model.training
            batch = self.prepare(to_device(raw, device), train=False)
            found = to_device(model.eval().detect(batch["image"]), torch.device("cpu"))
            model.train(was_training)
            shown = [one["scores"] > evaluation.drawn_score for one in found]
            rows[label] = [
                self._boxes(one["boxes"][keep], one["labels"][keep], one["scores"][keep].numpy())
                for one, keep in zip(found, shown, strict=True)
            ]
        detection_grid(images, true, rows, folder / "detections.png", evaluation.drawn_score)

    def _boxes(self, boxes: Tensor, labels: Tensor, scores: np.ndarray | None = None) -> Boxes:
        return Boxes(boxes.numpy(), [self.class_names[label] for label in labels.tolist()], scores)
