"""Trees of class folders, and the tasks on them."""

import numpy as np
from PIL import Image

from quantlab.config.tasks.classification_folder import ImageFolder as ImageFolderSection
from quantlab.config.tasks.classification_folder import ImageNet as ImageNetSection
from quantlab.tasks.classification_folder import ImageFolder, ImageNet

COMMON = {
    "image_size": 8,
    "decode_size": 10,
    "validation_fraction": 0.2,
    "split_seed": 0,
    "label_smoothing": 0.0,
    "evaluation": {"batch_size": 7},
    "augmentation": {"scale": [0.08, 1.0], "ratio": [0.75, 1.3333], "horizontal_flip": True},
    "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


def tree(root, classes=("cat", "dog", "owl"), count=10):
    """`count` images a class, 12x16, each class of its own brightness."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 60, (12, 16, 3)) + 60 * number
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def image_folder(root, **values):
    return ImageFolder(
        ImageFolderSection.model_validate(
            COMMON
            | {
                "_target_": "quantlab.tasks.classification_folder.ImageFolder",
                "name": "image_folder",
                "data_dir": str(root),
                "channels": 3,
                "test_fraction": 0.2,
            }
            | values
        )
    )


def imagenet(root):
    return ImageNet(
        ImageNetSection.model_validate(
            COMMON
            | {"_target_": "quantlab.tasks.classification_folder.ImageNet", "name": "imagenet", "data_dir": str(root)}
        )
    )
