"""What every task on images offers: images, labels and a training dataset, all from one array.

Images are kept as uint8 `[N, C, H, W]` and become floats one batch at a time: CIFAR-10 takes 150 MB instead of 600.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from quantlab.errors import QuantlabError, RequestError


def normalize(images: Tensor) -> Tensor:
    """uint8 `[..., C, H, W]` in 0..255 to float32 in [-1, 1]: `x / 127.5 - 1`."""
    return images.to(torch.float32) / 127.5 - 1


def denormalize(images: Tensor) -> Tensor:
    """float `[..., C, H, W]` nominally in [-1, 1] to float in [0, 1]; what lies outside is clamped."""
    return ((images + 1) / 2).clamp(0, 1)


def resize(images: Tensor, size: int, chunk: int = 4096) -> Tensor:
    """uint8 `[N, C, H, W]` to uint8 `[N, C, size, size]`: bilinear, antialiased, rounded to the nearest level.

    `chunk` images at a time, because the interpolation works on floats.
    """
    if tuple(images.shape[-2:]) == (size, size):
        return images
    resized = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk].float()
        part = F.interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False)
        resized[start : start + chunk] = part.round().clamp(0, 255).to(torch.uint8)
    return resized


class ImageDataset(Dataset):
    """Map-style: `{"image": [C, H, W], "label": int64 []}`; no "label" where the task has none.

    `transform` makes of the stored uint8 images what an item holds: float32 in [-1, 1] unless it says otherwise.

    `__getitems__` makes a whole batch with one indexing operation; `collate` then has nothing left to do.
    """

    def __init__(self, images: Tensor, labels: Tensor | None, transform: Callable[[Tensor], Tensor] = normalize):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = {"image": self.transform(self.images[index])}
        if self.labels is not None:
            item["label"] = self.labels[index]
        return item

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return self[torch.as_tensor(indices)]


def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The `collate_fn` of a DataLoader over an `ImageDataset`, whose `__getitems__` returns batches already."""
    return batch


def iterate_batches(loader: Iterable) -> Iterator:
    """The batches of a DataLoader. An error of ours that was raised in a worker comes back as its one line: torch puts
    the worker's traceback before it.
    """
    try:
        yield from loader
    except QuantlabError as error:
        line = str(error).strip().splitlines()[-1]
        raise type(error)(line.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")) from None


def require_channels(section: Any, channels: int) -> None:
    """Raises RequestError for a normalization of more or fewer channels than the images have. One value serves all
    channels.
    """
    for key in ("mean", "std"):
        values = getattr(section.normalization, key)
        if len(values) not in (1, channels):
            fitting = ",".join(["0.5"] * channels)
            raise RequestError(
                f"task.normalization.{key}: got {len(values)} values, but the images of task={section.name} have"
                f" {channels} channel{'s'[: channels != 1]}, allowed: one value for each, or one for all; type"
                f" task.normalization.mean=[{fitting}] task.normalization.std=[{fitting}]"
            )


def validation_count(images: int, fraction: float, least: int = 1) -> int:
    """How many of a training split's images are held out for validation: `fraction` of them, rounded.

    Raises:
        RequestError: that leaves none for validation, or fewer than `least` to train on.
    """
    held = round(fraction * images)
    if 0 < held <= images - least:
        return held
    if images <= least:
        raise RequestError(
            f"task.validation_fraction: {images} images (with boxes, where it is boxes) are left for training and "
            f"validation, allowed: at least {least + 1}; give more images"
        )
    fitting = 0.1 if 0 < round(0.1 * images) <= images - least else round(1 / images, 3)
    raise RequestError(
        f"task.validation_fraction: got {fraction}, which leaves {held} of {images} images for validation and"
        f" {images - held} for training, allowed: at least 1 and {least}; type task.validation_fraction={fitting}, or"
        " give more images"
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """`batch` (a tensor, or dicts and lists of tensors and other things) with every tensor in it moved to `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, list):
        return [to_device(value, device) for value in batch]
    return batch


class ImageTask:
    """Images to train on: the training split of a data set, at `image_size` pixels.

    A subclass says in `_load` where they come from. They are read once, at the first question, and stay in memory.
    `section` is the task's config: `name`, `image_size`, `evaluation`, and what the subclass reads.
    """

    kind: str
    collate = staticmethod(collate)
    channels: int
    classes: int | None  # number of labels; None: the images have none
    draws = False  # whether `draw` draws anything
    # processes that load data unless trainer.num_workers says how many: none where all is in memory
    workers = 0

    def __init__(self, section: Any):
        self.section = section
        self.name: str = section.name
        self.image_size: int = section.image_size
        self.evaluation = section.evaluation

    def _load(self) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 `[N, C, H, W]` at any size, and int64 `[N]` or None. Raises RequestError when data cannot be read."""
        raise NotImplementedError  # every task says where its images come from

    @functools.cached_property
    def _data(self) -> tuple[Tensor, Tensor | None]:
        images, labels = self._load()
        labels = None if labels is None else torch.from_numpy(labels.astype(np.int64))
        return resize(torch.from_numpy(images), self.image_size), labels

    def check(self) -> None:
        """Reads everything, so that a missing, empty or damaged file is found before any work.

        Nothing is read twice: whoever asks for the images later finds them in memory.

        Raises:
            RequestError: the path, what is wrong with it, and what to do.
        """
        self.images()

    def images(self) -> Tensor:
        """uint8 `[N, C, image_size, image_size]`. Raises RequestError as `check` does."""
        return self._data[0]

    def labels(self) -> Tensor | None:
        """int64 `[N]` in 0..classes-1, or None. Raises RequestError as `check` does."""
        return self._data[1]

    @functools.cached_property
    def _fingerprint(self) -> str:
        images, labels = self._data
        digest = hashlib.sha256(repr((tuple(images.shape), labels is not None)).encode())
        digest.update(np.ascontiguousarray(images))
        if labels is not None:
            digest.update(np.ascontiguousarray(labels))
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """sha256 (hex) of the images after all preprocessing, and of their labels: what weights trained here depend on.

        The decoded pixels are hashed and not the files: the same data in another container, or under another name,
        give the same key, and any change of a pixel, of the order, of a label or of the size gives another.
        """
        return self._fingerprint

    def dataset(self) -> ImageDataset:
        """What a model is trained on; use `collate` as the DataLoader's `collate_fn`."""
        return ImageDataset(*self._data)

    def prepare(self, batch: dict[str, Tensor], train: bool) -> dict[str, Tensor]:
        """A batch of `dataset` as the model takes it, on the batch's device; `train`: with augmentation, if the
        task has one.
        """
        return batch

    def baseline(self, device: torch.device) -> dict[str, dict[str, float]]:
        """Metrics on the test part of what needs no network, by name, if the task has such a thing to compare with."""
        return {}

    def draw(self, models: dict[str, nn.Module], folder: Path, device: torch.device) -> None:
        """Pictures of what `models` (by label, in the order to be shown, on `device`) make of test images, as PNG files
        in `folder`.

        Asked once, at the end of a run, on the main process. Not every task has something to look at.
        """
