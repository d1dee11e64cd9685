"""What conf/task/*.yaml may hold. The values' meaning is said there; `kind` is what a method asks for."""

from typing import Literal

from pydantic import Field

from quantlab.config.fields import Channels, Count, CountFromTwo, Directory, Name, Section, Seed, Strict, Switch
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
