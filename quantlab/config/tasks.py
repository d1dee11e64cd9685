"""What conf/task/*.yaml may hold. The values' meaning is said there; `kind` is what a method asks for."""

from typing import Annotated, Literal

from pydantic import Field

from quantlab.config.fields import (
    Channels,
    Count,
    CountFromTwo,
    CountFromZero,
    Directory,
    Fraction,
    Name,
    NotNegative,
    OpenFraction,
    OrNull,
    Positive,
    Section,
    Seed,
    SplitFile,
    Strict,
    Switch,
    UpscalingFactor,
    UpToOne,
)
from quantlab.config.models import TaskClassifier


class Evaluation(Strict):
    samples: CountFromTwo
    batch_size: Count
    features: Literal["task_classifier", "inception", "none"]
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
    target: Literal["quantlab.tasks.generation.MnistGeneration", "quantlab.tasks.generation.Cifar10Generation"] = Field(
        alias="_target_"
    )
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
    normalization: Normalization
    label_smoothing: Fraction
    evaluation: AccuracyEvaluation


class ImagesInMemory(ClassificationTask):
    augmentation: Augmentation


class Digits(ImagesInMemory):
    target: Literal["quantlab.tasks.classification.Digits"] = Field(alias="_target_")


class TorchvisionClassification(ImagesInMemory):
    target: Literal[
        "quantlab.tasks.classification.Mnist",
        "quantlab.tasks.classification.Cifar10",
        "quantlab.tasks.classification.Cifar100",
    ] = Field(alias="_target_")
    data_dir: Directory
    download: Switch
    split_file: OrNull[SplitFile]


class ResizedCrop(Strict):
    scale: Annotated[list[UpToOne], Field(min_length=2, max_length=2)]
    ratio: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    horizontal_flip: Switch


class ClassFolders(ClassificationTask):
    data_dir: Directory
    decode_size: Count
    augmentation: ResizedCrop


class ImageFolder(ClassFolders):
    target: Literal["quantlab.tasks.classification_folder.ImageFolder"] = Field(alias="_target_")
    channels: Channels
    test_fraction: OpenFraction


class ImageNet(ClassFolders):
    target: Literal["quantlab.tasks.classification_folder.ImageNet"] = Field(alias="_target_")


class Mirroring(Strict):
    horizontal_flip: Switch


class BoxEvaluation(Strict):
    batch_size: Count
    drawn_images: Count
    drawn_score: Fraction


class DetectionTask(Section):
    group = "task"
    kind = "detection"
    name: Name
    validation_fraction: OpenFraction
    split_seed: Seed
    augmentation: Mirroring
    normalization: Normalization
    evaluation: BoxEvaluation


class Scenes(Strict):
    train: CountFromTwo
    validation: Count
    test: Count


class DigitScenes(DetectionTask):
    target: Literal["quantlab.tasks.detection_scenes.DigitScenes"] = Field(alias="_target_")
    image_size: Count
    scenes: Scenes
    digits_per_scene: Annotated[list[Count], Field(min_length=2, max_length=2)]
    scales: Annotated[list[Count], Field(min_length=1)]
    background: NotNegative
    noise: NotNegative
    test_fraction: OpenFraction


class DetectionFiles(DetectionTask):
    data_dir: Directory
    invalid_boxes: Fraction


class Coco(DetectionFiles):
    target: Literal["quantlab.tasks.detection_coco.Coco"] = Field(alias="_target_")
    train: Name
    test: Name


class Voc(DetectionFiles):
    target: Literal["quantlab.tasks.detection_voc.Voc"] = Field(alias="_target_")
    download: Switch
    train: Annotated[list[Name], Field(min_length=1)]
    test: Annotated[list[Name], Field(min_length=1)]
    class_names: Annotated[list[Name], Field(min_length=1)]


class PairAugmentation(Strict):
    flips: Switch
    rotations: Switch


class RestorationEvaluation(Strict):
    batch_size: Count
    border: CountFromZero


class SuperResolution(Section):
    group = "task"
    kind = "super_resolution"
    name: Name
    scale: UpscalingFactor
    patch_size: Count
    augmentation: PairAugmentation
    evaluation: RestorationEvaluation

    @property
    def image_size(self) -> int:
        """Side of what is trained on, pixels of the original."""
        return self.scale * self.patch_size


class SamplePhotos(SuperResolution):
    target: Literal["quantlab.tasks.super_resolution.SamplePhotos"] = Field(alias="_target_")


class PhotoFolders(SuperResolution):
    target: Literal["quantlab.tasks.super_resolution.PhotoFolders"] = Field(alias="_target_")
    data_dir: Directory
    train_folder: Name
    test_folder: Name
    validation_images: Count
    split_seed: Seed
