"""Shared by the tests of COCO's and VOC's formats: a task's options, and images."""

import numpy as np
from PIL import Image

COMMON = {
    "validation_fraction": 0.3,
    "split_seed": 0,
    "augmentation": {"horizontal_flip": True},
    "invalid_boxes": 0.0,
    "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "evaluation": {"batch_size": 2, "drawn_images": 2, "drawn_score": 0.5},
}


def picture(path, number, width=20, height=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels
