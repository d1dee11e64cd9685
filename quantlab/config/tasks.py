"""What conf/task/*.yaml may hold. The values' meaning is said there; `kind` is what a method asks for."""

from typing import Annotated, Literal

from pydantic import Field

from quantlab.config.fields import (
    Channels, Count, CountFromTwo, CountFromZero, Directory, Name, OpenFraction, Positive, Section, Seed, Strict, Switch,
)
from quantlab.config.models import TaskClassifier


class Evaluation(Strict):
    samples: CountFromTwo
    batch_size: Count
    features: Literal["task_classifier", "inception"]
    seed: Seed
    step_error_samples: Count


class GenerationTask(Section):
    group = "task"
    kind = "generation"
    name: Name
    image_size: Count
    evaluation: Evaluation
    feature_network: TaskClassifier


class DigitsGeneration(GenerationTask):
    target: Literal["quantlab.tasks.generation.DigitsGeneration"] = Field(alias="_target_")


class TorchvisionGeneration(GenerationTask):
    target: Literal[
        "quantlab.tasks.generation.MnistGeneration", "quantlab.tasks.generation.Cifar10Generation"
    ] = Field(alias="_target_")
    data_dir: Directory
    download: Switch


class ImageFolderGeneration(GenerationTask):
    target: Literal["quantlab.tasks.generation.ImageFolderGeneration"] = Field(alias="_target_")
    data_dir: Directory
    channels: Channels


class Augmentation(Strict):
    crop_padding: CountFromZero
    horizontal_flip: Switch


class Normalization(Strict):
    mean: Annotated[list[float], Field(min_length=1)]
    std: Annotated[list[Positive], Field(min_length=1)]


class AccuracyEvaluation(Strict):
    batch_size: Count


class ClassificationTask(Section):
    group = "task"
    kind = "classification"
    name: Name
    image_size: Count
    validation_fraction: OpenFraction
    split_seed: Seed
    augmentation: Augmentation
    normalization: Normalization
    evaluation: AccuracyEvaluation


class Digits(ClassificationTask):
    target: Literal["quantlab.tasks.classification.Digits"] = Field(alias="_target_")


class TorchvisionClassification(ClassificationTask):
    target: Literal["quantlab.tasks.classification.Mnist", "quantlab.tasks.classification.Cifar10"] = Field(alias="_target_")
    data_dir: Directory
    download: Switch
