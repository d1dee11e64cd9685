"""What the YAMLs of classification tasks may hold. The values' meaning is said there."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from quantlab.config.effects import only_if
from quantlab.config.fields import (
    BatchSize,
    Directory,
    Fraction,
    OpenFraction,
    OrNull,
    Pixels,
    PixelsFromZero,
    Positive,
    Seed,
    SplitFile,
    Strict,
    Switch,
)
from quantlab.config.sections import Parts
from quantlab.config.tasks.base import Task


class Normalization(Strict):
    mean: Annotated[list[float], Field(min_length=1)]
    std: Annotated[list[Positive], Field(min_length=1)]

    def problems(self) -> Iterator[str]:
        """Of the key task.normalization."""
        if len(self.mean) != len(self.std):
            yield (
                f"task.normalization.std: got {len(self.std)} values for the {len(self.mean)} of mean, allowed: one per"
                f" channel; type task.normalization.std=[{','.join(['0.5'] * len(self.mean))}]"
            )


class AccuracyEvaluation(Strict):
    batch_size: BatchSize


class ClassificationTask(Task):
    kind = "classification"
    main_metrics = ("top1",)
    image_size: Pixels
    validation_fraction: OpenFraction
    split_seed: Seed
    normalization: Normalization
    label_smoothing: Fraction
    evaluation: AccuracyEvaluation

    def check(self, parts: Parts) -> Iterator[str]:
        yield from self.normalization.problems()


class Augmentation(Strict):
    crop_padding: PixelsFromZero
    horizontal_flip: Switch


class ImagesInMemory(ClassificationTask, default_for="classification"):
    augmentation: Augmentation


class Digits(ImagesInMemory, target="quantlab.tasks.classification.Digits"):
    pass


class TorchvisionClassification(
    ImagesInMemory,
    target=(
        "quantlab.tasks.classification.Mnist",
        "quantlab.tasks.classification.Cifar10",
        "quantlab.tasks.classification.Cifar100",
    ),
):
    effects = only_if("task.split_file", (None,), "task.validation_fraction", "task.split_seed")
    data_dir: Directory
    download: Switch
    split_file: OrNull[SplitFile]
