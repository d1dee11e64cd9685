"""How metrics were measured, in words."""

from typing import Any

from quantlab.report.runs import flatten

PROTOCOL_WORDS = {
    "samples": "{} samples",
    "fid_features": "FID on the features of {}",
    "reference_images": "{} reference images",
    "held_out_images": "{} held-out images",
    "train_images": "{} training images",
    "validation_images": "{} validation images",
    "test_images": "{} test images",
    "test_boxes": "{} test boxes",
    "denoising_steps": "{} denoising steps",
}


def protocol_words(protocol: dict[str, Any]) -> str:
    """`1024 samples; FID on the features of task_classifier`: how the metrics were measured, in words."""
    words = []
    for key, value in flatten(protocol):
        template = PROTOCOL_WORDS.get(key, key.replace("_", " ").replace(".", " ") + " {}")
        words.append(template.format(value))
    return "; ".join(words)
