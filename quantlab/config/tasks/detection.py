"""What the YAMLs of detection tasks may hold. The values' meaning is said there."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from quantlab.config.fields import (
    BatchSize,
    Directory,
    Fraction,
    Images,
    Name,
    NotNegative,
    OpenFraction,
    Pixels,
    Scenes,
    ScenesFromTwo,
    Seed,
    Strict,
    Switch,
    at_most,
)
from quantlab.config.sections import Parts
from quantlab.config.tasks.base import TRAINING_CURVES, Task
from quantlab.config.tasks.classification import Normalization


class Mirroring(Strict):
    horizontal_flip: Switch


class BoxEvaluation(Strict):
    batch_size: BatchSize
    drawn_images: Images
    drawn_score: Fraction


class DetectionTask(Task, default_for="detection"):
    kind = "detection"
    main_metrics = ("map",)
    captions = {
        "training": TRAINING_CURVES,
        "detections": "Test images with the true boxes (dashed) and those found, with class and score.",
    }
    validation_fraction: OpenFraction
    split_seed: Seed
    augmentation: Mirroring
    normalization: Normalization
    evaluation: BoxEvaluation

    def check(self, parts: Parts) -> Iterator[str]:
        yield from self.normalization.problems()


class Scenes(Strict):
    train: ScenesFromTwo
    validation: Scenes
    test: Scenes


class DigitScenes(DetectionTask, target="quantlab.tasks.detection_scenes.DigitScenes"):
    image_size: Pixels
    scenes: Scenes
    digits_per_scene: Annotated[list[Pixels], Field(min_length=2, max_length=2)]
    scales: Annotated[list[Pixels], Field(min_length=1)]
    background: NotNegative
    noise: NotNegative
    test_fraction: OpenFraction

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        yield from at_most(
            "task.scales", max(self.scales), "task.image_size / 8, a digit's pixels", max(self.image_size // 8, 1)
        )
        low, high = self.digits_per_scene
        if low > high:
            yield (
                f"task.digits_per_scene: got [{low}, {high}], allowed: the smaller first; type"
                f" task.digits_per_scene=[{high},{low}]"
            )
        if self.test_fraction + self.validation_fraction > 0.9:
            yield (
                f"task.test_fraction: got {self.test_fraction} beside validation_fraction={self.validation_fraction},"
                " allowed: together up to 0.9 of the digits; type task.test_fraction=0.2 task.validation_fraction=0.1"
            )


class DetectionFiles(DetectionTask):
    data_dir: Directory
    invalid_boxes: Fraction


class Coco(DetectionFiles, target="quantlab.tasks.detection_coco.Coco"):
    train: Name
    test: Name


class Voc(DetectionFiles, target="quantlab.tasks.detection_voc.Voc"):
    download: Switch
    train: Annotated[list[Name], Field(min_length=1)]
    test: Annotated[list[Name], Field(min_length=1)]
    class_names: Annotated[list[Name], Field(min_length=1)]
