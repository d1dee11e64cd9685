"""Classification tasks: images, splits, augmentation, normalization, and accuracy."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from quantlab.errors import RequestError
from quantlab.tasks import datasets
from quantlab.tasks.base import ImageDataset, ImageTask, iterate_batches, require_channels, resize, validation_count
from quantlab.tasks.split_file import read_split, require_images


def random_crop_and_flip(images: Tensor, padding: int, flip: bool) -> Tensor:
    """Each image of `[N, C, H, W]` shifted by up to `padding` pixels in each direction, padded with black, and randomly
    mirrored.

    The augmentation of the CIFAR literature (He et al. 2016, Sec. 4.2), on the images' device, for a whole batch at a
    time, with one draw per image from torch's generator.
    """
    count, _, height, width = images.shape
    device = images.device
    if padding:
        padded = F.pad(images, [padding] * 4)
        row = torch.randint(0, 2 * padding + 1, (count, 1), device=device) + torch.arange(height, device=device)
        column = torch.randint(0, 2 * padding + 1, (count, 1), device=device) + torch.arange(width, device=device)
        if flip:
            mirrored = torch.rand(count, 1, device=device) < 0.5
            column = torch.where(mirrored, column.flip(1), column)
        index = torch.arange(count, device=device)[:, None, None]
        # Channels last while gathering, so that one index selects all channels of a pixel.
        return padded.permute(0, 2, 3, 1)[index, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        mirrored = torch.rand(count, 1, 1, 1, device=device) < 0.5
        return torch.where(mirrored, images.flip(3), images)
    return images


class ClassificationTask(ImageTask):
    """Labelled images, in memory or in folders: disjoint training, validation and test parts.

    The validation part, `validation_fraction` of the training split, is drawn by `split_seed`, never trained on, and
    selects the best checkpoint. Reported metrics are measured on the test split.
    """

    kind = "classification"
    main_metric = "top1"  # of `evaluate`; higher is better
    channels: int
    classes: int

    def __init__(self, section: Any):
        super().__init__(section)
        require_channels(section, self.channels)

    def part(self, name: str) -> Dataset:
        """The "train", "validation" or "test" part, whose items hold uint8 images and int64 labels. Raises RequestError
        as `check`.
        """
        raise NotImplementedError  # depends on where images are stored

    def augment(self, images: Tensor) -> Tensor:
        """A batch of a part's images with training augmentation, drawn by torch's generator."""
        raise NotImplementedError  # in memory or in folders

    def centre(self, images: Tensor) -> Tensor:
        """A batch of a part's images as used in evaluation."""
        return images

    def validation_and_train(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shuffled indices of the training split, divided into both parts. Raises RequestError if either would be
        empty.
        """
        held = validation_count(len(order), self.section.validation_fraction)
        return order[:held], order[held:]

    def shuffled(self, count: int, seed: int | None = None) -> np.ndarray:
        """The indices below `count` in an order drawn by `seed`, by default `split_seed`."""
        return np.random.default_rng(self.section.split_seed if seed is None else seed).permutation(count)

    def fingerprint(self) -> str:
        """As in the base class, of everything that weights trained here depend on: images, labels and their smoothing,
        split, augmentation, normalization.
        """
        digest = hashlib.sha256(super().fingerprint().encode())
        shaping = self.section.model_dump(
            include={"augmentation", "normalization", "validation_fraction", "split_seed"}
        )
        # omitted if zero, so that weights cached before this key existed are still found
        if self.section.label_smoothing:
            shaping["label_smoothing"] = self.section.label_smoothing
        digest.update(json.dumps(shaping, sort_keys=True).encode())
        return digest.hexdigest()

    def dataset(self) -> Dataset:
        """The training part as uint8; `prepare` does the rest on the device, within the seeded step."""
        return self.part("train")

    def prepare(self, batch: dict[str, Tensor], train: bool) -> dict[str, Tensor]:
        if not train:
            return batch | {"image": self.normalize(self.centre(batch["image"]))}
        return batch | {"image": self.normalize(self.augment(batch["image"])), "label": self.smooth(batch["label"])}

    def smooth(self, label: Tensor) -> Tensor:
        """Label smoothing (Szegedy et al. 2016, Sec. 7): int64 `[N]` to float32 `[N, classes]` targets, `(1 - e)
        [class is label] + e / classes` for e = `label_smoothing`; unchanged for e = 0. Cross-entropy accepts both, so
        this works in every method that trains a classifier; accuracies and validation losses are not affected.
        """
        share = self.section.label_smoothing
        return (1 - share) * F.one_hot(label, self.classes) + share / self.classes if share else label

    def normalize(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` with values 0 to 255 to float32, `(x / 255 - mean) / std` per channel."""
        mean = torch.tensor(self.section.normalization.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.section.normalization.std, device=images.device).view(-1, 1, 1)
        return (images.to(torch.float32) / 255 - mean) / std

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, split: str, device: torch.device, progress: Callable[..., Iterable] | None = None
    ) -> dict[str, float]:
        """`top1` and `top5` (percent) and `loss` (mean cross-entropy, nats) of `model`, in evaluation mode, on a
        part.
        """
        part = self.part(split)
        loader = DataLoader(part, self.section.evaluation.batch_size, collate_fn=self.collate, num_workers=self.workers)
        was_training = model.training
        model.eval()
        sums = torch.zeros(3, device=device)
        for batch in iterate_batches(progress(loader, f"{split} accuracy") if progress else loader):
            batch = self.prepare({name: tensor.to(device) for name, tensor in batch.items()}, train=False)
            logits, label = model(batch["image"]), batch["label"]
            best = logits.topk(min(5, logits.shape[1])).indices == label[:, None]
            sums += torch.stack([best[:, 0].sum(), best.sum(), F.cross_entropy(logits, label, reduction="sum")])
        model.train(was_training)
        top1, top5, loss = (sums / len(part)).tolist()
        return {"top1": 100 * top1, "top5": 100 * top5, "loss": loss}

    def protocol(self) -> dict[str, Any]:
        """The data that accuracy was measured on."""
        sizes = {f"{name}_images": len(self.part(name)) for name in ("train", "validation", "test")}
        return sizes | {"split_seed": self.section.split_seed}


class ImagesInMemory(ClassificationTask):
    """A data set that is read once and stays in memory as uint8. A subclass without an official test split sets
    `test_fraction`.
    """

    test_fraction: float | None = None

    def _load_test(self) -> tuple[np.ndarray, np.ndarray]:
        """The test split, as `_load`."""
        raise NotImplementedError  # defined by every task with an official test split

    @functools.cached_property
    def _parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        images, labels = self._data
        order = self.shuffled(len(images))
        if self.test_fraction is None:
            test_images, test_labels = self._load_test()
            test = (
                resize(torch.from_numpy(test_images), self.image_size),
                torch.from_numpy(test_labels.astype(np.int64)),
            )
        else:
            held = round(self.test_fraction * len(images))
            test, order = (images[order[:held]], labels[order[:held]]), order[held:]
        validation, train = self.validation_and_train(order)
        return {
            "train": (images[train], labels[train]),
            "validation": (images[validation], labels[validation]),
            "test": test,
        }

    def check(self) -> None:
        for name, (_, labels) in self._parts.items():
            wrong = labels[(labels < 0) | (labels >= self.classes)]
            if len(wrong):
                raise RequestError(
                    f"task {self.name}: the {name} split holds label {int(wrong[0])}, allowed: 0 to {self.classes - 1}"
                )

    def part(self, name: str) -> ImageDataset:
        return ImageDataset(*self._parts[name], transform=lambda images: images)

    def augment(self, images: Tensor) -> Tensor:
        augmentation = self.section.augmentation
        return random_crop_and_flip(images, augmentation.crop_padding, augmentation.horizontal_flip)


class Digits(ImagesInMemory):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey, part of the installation. A fifth is the test split."""

    channels, classes, test_fraction = 1, 10, 0.2

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        return datasets.load_digits()


class OfficialTest(ImagesInMemory):
    """A data set with an official test split, so that `split_file` can divide the training split instead of a random
    draw.
    """

    def __init__(self, section: Any):
        super().__init__(section)
        # before the images, which take half a minute to decode
        self.split = None if section.split_file is None else read_split(section.split_file)

    def validation_and_train(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.split is None:
            return super().validation_and_train(order)
        require_images(self.split, len(order), self.section.split_file)
        train, validation = self.split
        return validation, train

    def fingerprint(self) -> str:
        whole = super().fingerprint()
        return (
            whole
            if self.split is None
            else hashlib.sha256(whole.encode() + b"".join(part.tobytes() for part in self.split)).hexdigest()
        )

    def protocol(self) -> dict[str, Any]:
        found = super().protocol()
        if self.split is not None:
            found["split_file"] = Path(self.section.split_file).name
            del found["split_seed"]
        return found


class Mnist(OfficialTest):
    """MNIST, 28x28, grey: 60,000 images for training and validation, 10,000 for the test."""

    channels, classes = 1, 10

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        return datasets.load_mnist(Path(self.section.data_dir).expanduser(), self.section.download)

    def _load_test(self) -> tuple[np.ndarray, np.ndarray]:
        return datasets.load_mnist(Path(self.section.data_dir).expanduser(), self.section.download, "test")


class Cifar10(OfficialTest):
    """CIFAR-10, 32x32, RGB: 50,000 images for training and validation, 10,000 for the test."""

    channels, classes = 3, 10

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        return datasets.load_cifar10(Path(self.section.data_dir).expanduser(), self.section.download)

    def _load_test(self) -> tuple[np.ndarray, np.ndarray]:
        return datasets.load_cifar10(Path(self.section.data_dir).expanduser(), self.section.download, "test")


class Cifar100(OfficialTest):
    """CIFAR-100, 32x32, RGB: 50,000 images for training and validation, 10,000 for the test."""

    channels, classes = 3, 100

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        return datasets.load_cifar100(Path(self.section.data_dir).expanduser(), self.section.download)

    def _load_test(self) -> tuple[np.ndarray, np.ndarray]:
        return datasets.load_cifar100(Path(self.section.data_dir).expanduser(), self.section.download, "test")
