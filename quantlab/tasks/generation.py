"""Generation tasks. Each defines the source and the shape of its images; `base` does the rest."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from quantlab.tasks import datasets, image_files, image_folder
from quantlab.tasks.base import ImageTask, normalize


class GenerationTask(ImageTask):
    """Images whose distribution is learned, in [-1, 1], the range in which diffusion models are trained."""

    kind = "generation"

    def reference(self) -> Iterator[Tensor]:
        """The reference set of FID: every image, as float32 `[<= evaluation.batch_size, C, H, W]` in [-1, 1]."""
        for part in self.images().split(self.evaluation.batch_size):
            yield normalize(part)


class DigitsGeneration(GenerationTask):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey, part of the installation."""

    channels, classes = 1, 10

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        return datasets.load_digits()


class MnistGeneration(GenerationTask):
    """The 60,000 training images of MNIST, 28x28, grey."""

    channels, classes = 1, 10

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        return datasets.load_mnist(Path(self.section.data_dir).expanduser(), self.section.download)


class Cifar10Generation(GenerationTask):
    """The 50,000 training images of CIFAR-10, 32x32, RGB."""

    channels, classes = 3, 10

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        return datasets.load_cifar10(Path(self.section.data_dir).expanduser(), self.section.download)


class ImageFolderGeneration(GenerationTask):
    """Every image under a folder, resized and cropped to a square, labelled by sub-folder."""

    def __init__(self, section: Any):
        super().__init__(section)
        self.channels: int = section.channels
        self.folder = Path(section.data_dir).expanduser()

    @functools.cached_property
    def files(self) -> list[Path]:
        """Paths relative to the folder, sorted. Raises RequestError as `image_files.find_images`."""
        return image_files.find_images(self.folder)

    @functools.cached_property
    def _class_of_file(self) -> list[int] | None:
        return image_files.class_labels(self.folder, self.files)

    @property
    def classes(self) -> int | None:
        """Number of labels, from the folder tree, without reading images."""
        return None if self._class_of_file is None else max(self._class_of_file) + 1

    def _load(self) -> tuple[np.ndarray, np.ndarray | None]:
        labels = self._class_of_file  # first: it may refuse the folder
        images = image_folder.read_images(self.folder, self.files, self.image_size, self.channels)
        return images, None if labels is None else np.array(labels)
