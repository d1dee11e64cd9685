"""What the YAMLs of super-resolution tasks may hold. The values' meaning is said there."""

from quantlab.config.fields import (
    BatchSize,
    Directory,
    Images,
    Name,
    Pixels,
    PixelsFromZero,
    Seed,
    Strict,
    Switch,
    UpscalingFactor,
)
from quantlab.config.tasks.base import Task


class PairAugmentation(Strict):
    flips: Switch
    rotations: Switch


class RestorationEvaluation(Strict):
    batch_size: BatchSize
    border: PixelsFromZero


class SuperResolution(Task, default_for="super_resolution"):
    kind = "super_resolution"
    main_metrics = ("psnr_y",)
    captions = {
        "super_resolution": (
            "Of test images the square with the most detail: bicubic upsampling, what the models make of it, the"
            " original."
        )
    }
    scale: UpscalingFactor
    patch_size: Pixels
    augmentation: PairAugmentation
    evaluation: RestorationEvaluation

    @property
    def image_size(self) -> int:
        """Side of what is trained on, pixels of the original."""
        return self.scale * self.patch_size


class SamplePhotos(SuperResolution, target="quantlab.tasks.super_resolution.SamplePhotos"):
    pass


class PhotoFolders(SuperResolution, target="quantlab.tasks.super_resolution.PhotoFolders"):
    data_dir: Directory
    train_folder: Name
    test_folder: Name
    validation_images: Images
    split_seed: Seed
