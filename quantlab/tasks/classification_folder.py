"""Classification of images in one folder per class, decoded when a batch needs them: ImageNet, or your own.

Loader processes decode an image to uint8, resize its shorter side to `decode_size`, and crop the central square. Random
cropping and mirroring are done on the device, for the whole batch, within the seeded step. This order is our choice and
not torchvision's: results are bit-identical for any number of processes and after a resume.
"""

import functools
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from quantlab.errors import RequestError, RunError
from quantlab.tasks.classification import ClassificationTask
from quantlab.tasks.image_files import class_labels, find_images
from quantlab.tasks.image_folder import read_image

MOST_WORKERS = 4
# folder names that are not classes
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
SEEDS = 100  # tried to find one that suits a folder of few images


def random_resized_crop(
    images: Tensor, size: int, scale: tuple[float, float], ratio: tuple[float, float], flip: bool
) -> Tensor:
    """Inception's augmentation (Szegedy et al. 2015), a batch at a time: `[N, C, S, S]` to float32 `[N, C, size,
    size]`.

    From each image a rectangle with a share of the area within `scale` and a width-to-height ratio within `ratio`
    (log-uniform), at a uniform position, resized bilinearly and randomly mirrored. Drawn by torch's generator. Sides
    longer than the image are cut to it.
    """
    count, device = len(images), images.device
    area = torch.empty(count, device=device).uniform_(*scale)
    shape = torch.empty(count, device=device).uniform_(*map(math.log, ratio)).exp()
    width, height = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
    x, y = ((1 - side) * (2 * torch.rand(count, device=device) - 1) for side in (width, height))  # centre, -1 to 1
    if flip:
        width = torch.where(torch.rand(count, device=device) < 0.5, -width, width)
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 2], theta[:, 1, 1], theta[:, 1, 2] = width, x, height, y
    with torch.autocast(device.type, enabled=False):  # half precision would shift pixels by up to half a pixel
        grid = F.affine_grid(theta, (count, images.shape[1], size, size), align_corners=False)
        # the center of the last pixel, so that nothing beyond the border enters
        outermost = 1 - 1 / images.shape[-1]
        return F.grid_sample(images.to(torch.float32), grid.clamp(-outermost, outermost), align_corners=False)


class FolderImages(Dataset):
    """Map-style: `{"image": uint8 [C, decode_size, decode_size], "label": int64 []}`. Raises RunError for a damaged
    file.
    """

    def __init__(self, folder: Path, files: list[Path], labels: np.ndarray, channels: int, decode_size: int):
        self.folder, self.files, self.labels, self.channels, self.decode_size = (
            folder,
            files,
            labels,
            channels,
            decode_size,
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        try:
            image = read_image(self.folder / self.files[index], self.decode_size, self.channels)
        except RequestError as error:
            raise RunError(str(error)) from None  # only found in the middle of the run
        return {"image": torch.from_numpy(np.array(image)), "label": torch.tensor(int(self.labels[index]))}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        return [self[index] for index in indices]


class ClassFolders(ClassificationTask):
    """Base of both tasks on folders."""

    collate = staticmethod(default_collate)

    def __init__(self, section: Any):
        super().__init__(section)
        self.workers = min(MOST_WORKERS, os.cpu_count() or 1)

    @functools.cached_property
    def _parts(self) -> dict[str, FolderImages]:
        raise NotImplementedError  # subclasses differ in the test part

    @functools.cached_property
    def classes(self) -> int:
        return 1 + int(self._parts["train"].labels.max())

    def part(self, name: str) -> FolderImages:
        return self._parts[name]

    def _images(
        self, folder: Path, files: list[Path], labels: np.ndarray, chosen: np.ndarray | None = None
    ) -> FolderImages:
        chosen = np.arange(len(files)) if chosen is None else np.sort(chosen)
        return FolderImages(folder, [files[i] for i in chosen], labels[chosen], self.channels, self.section.decode_size)

    def check(self) -> None:
        """Find every file, and decode one of each part; the others are decoded when needed."""
        for part in self._parts.values():
            read_image(part.folder / part.files[0], self.section.decode_size, self.channels)

    @property
    def _fingerprint(self) -> str:
        """A hash of file names, sizes in bytes, labels, and image sizes: reading every pixel would take an epoch."""
        digest = hashlib.sha256(repr((self.image_size, self.section.decode_size, self.channels)).encode())
        for part in self._parts.values():
            for file, label in zip(part.files, part.labels, strict=True):
                digest.update(f"{file.as_posix()} {(part.folder / file).stat().st_size} {label}\n".encode())
        return digest.hexdigest()

    def augment(self, images: Tensor) -> Tensor:
        augmentation = self.section.augmentation
        return random_resized_crop(
            images, self.image_size, augmentation.scale, augmentation.ratio, augmentation.horizontal_flip
        )

    def centre(self, images: Tensor) -> Tensor:
        start = (self.section.decode_size - self.image_size) // 2
        return images[..., start : start + self.image_size, start : start + self.image_size]


def labelled_images(folder: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    """Files under `folder`, their labels, and the class name of each label. Raises RequestError as `find_images` and
    `class_labels`, and if images are not in class folders.
    """
    files = find_images(folder)
    labels, beside = class_labels(folder, files), [file for file in files if len(file.parts) == 1]
    if labels is None:
        got = (
            f"{len(beside)} of its {len(files)} images are in no class folder, the first is {beside[0]}"
            if beside
            else f"all its images are in one folder, {files[0].parts[0]}"
        )
        raise RequestError(
            f"data_dir {folder}: {got}, allowed: at least two folders, each with the images of one class, and no image "
            "next to them; move them, or give another data_dir=PATH"
        )
    return files, np.array(labels), sorted({file.parts[0] for file in files})


class ImageFolder(ClassFolders):
    """Any folder whose sub-folders are classes. The test part, `test_fraction` of the images, is drawn by
    `split_seed`.
    """

    @property
    def channels(self) -> int:
        return self.section.channels

    @functools.cached_property
    def _parts(self) -> dict[str, FolderImages]:
        folder = Path(self.section.data_dir).expanduser()
        files, labels, classes = labelled_images(folder)
        if SPLITS.issuperset(map(str.lower, classes)):
            raise RequestError(
                f"data_dir {folder}: its folders {', '.join(classes)} look like parts and not like classes, "
                "allowed: folders that are classes; type task=imagenet, which takes train and val, or "
                f"data_dir={folder / classes[0]}"
            )
        needed = len(classes) + 2
        if len(files) < needed:
            raise RequestError(
                f"data_dir {folder}: {len(files)} images of {len(classes)} classes, allowed: at least {needed}, "
                "one of every class to train on, one for validation and one for the test; add images"
            )
        parts = self._divided(self.shuffled(len(files)))
        lacking = set(labels.tolist()) - set(labels[parts["train"]].tolist())
        if lacking:
            drawn = (labels[self._divided(self.shuffled(len(files), seed))["train"]] for seed in range(SEEDS))
            fitting = next((seed for seed, left in enumerate(drawn) if len(np.unique(left)) == len(classes)), None)
            remedy = "" if fitting is None else f", or type task.split_seed={fitting}"
            raise RequestError(
                f"data_dir {folder}: no image of class '{classes[min(lacking)]}' is left to train on, allowed: a few "
                f"images of every class; add images{remedy}"
            )
        return {name: self._images(folder, files, labels, chosen) for name, chosen in parts.items()}

    def _divided(self, order: np.ndarray) -> dict[str, np.ndarray]:
        """The shuffled indices of each part. Raises RequestError if a part would be empty."""
        held = max(round(self.section.test_fraction * len(order)), 1)
        if len(order) - held < 2:
            raise RequestError(
                f"task.test_fraction: got {self.section.test_fraction}, which leaves {len(order) - held} of"
                f" {len(order)} images for training and validation; type task.test_fraction=0.2"
            )
        validation, train = self.validation_and_train(order[held:])
        return {"train": train, "validation": validation, "test": order[:held]}


class ImageNet(ClassFolders):
    """ILSVRC 2012 in the layout of torchvision's reference scripts: data_dir/train/CLASS/*.JPEG and
    data_dir/val/CLASS/*.JPEG; the test part is val.
    """

    channels = 3

    @functools.cached_property
    def _parts(self) -> dict[str, FolderImages]:
        root = Path(self.section.data_dir).expanduser()
        for name in ("train", "val"):
            if not (root / name).is_dir():
                raise RequestError(
                    f"data_dir {root}: there is no folder {name}, allowed: a folder that holds train/CLASS/*.JPEG and "
                    "val/CLASS/*.JPEG; give it with data_dir=PATH"
                )
        files, labels, classes = labelled_images(root / "train")
        test_files, test_labels, test_classes = labelled_images(root / "val")
        if classes != test_classes:
            differing = sorted(set(classes) ^ set(test_classes))[0]
            raise RequestError(
                f"data_dir {root}: train has {len(classes)} classes and val {len(test_classes)}, allowed: the same in"
                f" both; the first that differs is '{differing}'"
            )
        validation, train = self.validation_and_train(self.shuffled(len(files)))
        return {
            "train": self._images(root / "train", files, labels, train),
            "validation": self._images(root / "train", files, labels, validation),
            "test": self._images(root / "val", test_files, test_labels),
        }
