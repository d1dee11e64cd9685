"""What the YAMLs of classification of folders of images may hold. The values' meaning is said there."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from quantlab.config.fields import Channels, Directory, OpenFraction, Pixels, Positive, Strict, Switch, UpToOne, at_most
from quantlab.config.sections import Parts
from quantlab.config.tasks.classification import ClassificationTask


class ResizedCrop(Strict):
    scale: Annotated[list[UpToOne], Field(min_length=2, max_length=2)]
    ratio: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    horizontal_flip: Switch


class ClassFolders(ClassificationTask):
    data_dir: Directory
    decode_size: Pixels
    augmentation: ResizedCrop

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        yield from at_most("task.image_size", self.image_size, "task.decode_size", self.decode_size)
        for key, (low, high) in (("scale", self.augmentation.scale), ("ratio", self.augmentation.ratio)):
            if low > high:
                yield (
                    f"task.augmentation.{key}: got [{low}, {high}], allowed: the smaller first; "
                    f"type task.augmentation.{key}=[{high},{low}]"
                )


class ImageFolder(ClassFolders, target="quantlab.tasks.classification_folder.ImageFolder"):
    channels: Channels
    test_fraction: OpenFraction


class ImageNet(ClassFolders, target="quantlab.tasks.classification_folder.ImageNet"):
    pass
