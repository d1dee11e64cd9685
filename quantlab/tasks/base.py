"""Base of all image tasks: images, labels and a training dataset, all from one array.

Images are kept as uint8 `[N, C, H, W]` and converted to floats batch by batch: CIFAR-10 takes 150 MB instead of 600.
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
    """float `[..., C, H, W]` nominally in [-1, 1] to float in [0, 1], clamped."""
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
    """Map-style: `{"image": [C, H, W], "label": int64 []}`; without "label" if the task has none.

    transform: from stored uint8 images to those of an item, by default float32 in [-1, 1].

    `__getitems__` builds a whole batch in one indexing operation, so `collate` has nothing to do.
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
    """The `collate_fn` of a DataLoader over an `ImageDataset`, whose `__getitems__` already returns batches."""
    return batch


def iterate_batches(loader: Iterable) -> Iterator:
    """The batches of a DataLoader. Our errors from a worker are reduced to their one line again: torch prepends the
    worker's traceback.
    """
    try:
        yield from loader
    except QuantlabError as error:
        line = str(error).strip().splitlines()[-1]
        raise type(error)(line.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")) from None


def require_channels(section: Any, channels: int) -> None:
    """Raises RequestError for a normalization whose number of channels differs from the images'. One value applies to
    all channels.
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
    """The number of a training split's images that are held out for validation: `fraction` of them, rounded.

    Raises:
        RequestError: this leaves none for validation, or fewer than `least` for training.
    """
    held = round(fraction * images)
    if 0 < held <= images - least:
        return held
    if images <= least:
        raise RequestError(
            f"task.validation_fraction: {images} images (with boxes, for detection) are left for training and "
            f"validation, allowed: at least {least + 1}; give more images"
        )
    fitting = 0.1 if 0 < round(0.1 * images) <= images - least else round(1 / images, 3)
    raise RequestError(
        f"task.validation_fraction: got {fraction}, which leaves {held} of {images} images for validation and"
        f" {images - held} for training, allowed: at least 1 and {least}; type task.validation_fraction={fitting}, or"
        " give more images"
    )


def each_tensor(change: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """`batch` (a tensor, or dicts and lists of tensors and other things) with every tensor in it changed."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {name: each_tensor(change, value) for name, value in batch.items()}
    if isinstance(batch, list):
        return [each_tensor(change, value) for value in batch]
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """`batch` with every tensor in it moved to `device`."""
    return each_tensor(lambda tensor: tensor.to(device, non_blocking=True), batch)


class ImageTask:
    """Images to train on: the training split of a data set, at `image_size` pixels.

    A subclass defines in `_load` where they come from. They are read once, on first access, and stay in memory.
    `section` is the task's config: `name`, `image_size`, `evaluation`, and what the subclass reads.
    """

    kind: str
    collate = staticmethod(collate)
    channels: int
    classes: int | None  # number of classes; None: no labels
    has_images = True  # False: only what a model makes of itself is measured
    draws = False  # whether `draw` writes figures
    # processes that load data unless trainer.num_workers is given; 0 for data in memory
    workers = 0

    def __init__(self, section: Any):
        self.section = section
        self.name: str = section.name
        self.image_size: int = section.image_size
        self.evaluation = section.evaluation

    def _load(self) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 `[N, C, H, W]` at any size, and int64 `[N]` or None. Raises RequestError when data cannot be read."""
        raise NotImplementedError  # defined by every task

    @functools.cached_property
    def _data(self) -> tuple[Tensor, Tensor | None]:
        images, labels = self._load()
        labels = None if labels is None else torch.from_numpy(labels.astype(np.int64))
        return resize(torch.from_numpy(images), self.image_size), labels

    def check(self) -> None:
        """Read everything, so that a missing, empty or damaged file is found before any work.

        Nothing is read twice: later accesses find the images in memory.

        Raises:
            RequestError: with the path, the problem and the remedy.
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
        """sha256 (hex) of the preprocessed images and their labels, on which weights trained here depend.

        Decoded pixels are hashed, not files: the same data in another container or under another name give the same
        key; any change of a pixel, the order, a label or the size gives another.
        """
        return self._fingerprint

    def dataset(self) -> ImageDataset:
        """The training data; use `collate` as the DataLoader's `collate_fn`."""
        return ImageDataset(*self._data)

    def prepare(self, batch: dict[str, Tensor], train: bool) -> dict[str, Tensor]:
        """A batch of `dataset` in the model's input format, on the batch's device; train: with augmentation, if the
        task has any.
        """
        return batch

    def baseline(self, device: torch.device) -> dict[str, dict[str, float]]:
        """Test metrics of baselines that need no network, by name, if the task has any."""
        return {}

    def draw(self, models: dict[str, nn.Module], folder: Path, device: torch.device) -> None:
        """Write figures of the output of `models` (by label, in display order, on `device`) on test images, as PNG
        files in `folder`.

        Called once, at the end of a run, on the main process. Not every task has figures.
        """
