"""What the methods share that train a quantized network."""

from typing import Annotated, Literal

from pydantic import Field

from quantlab.config.effects import Acts, only_if
from quantlab.config.fields import (
    BatchSize,
    Count,
    CountFromZero,
    Fraction,
    NotNegative,
    OpenFraction,
    Positive,
    Strict,
)
from quantlab.config.methods.base import Method


class LearningRateByOptimizer(Strict):
    sgd: Positive
    adam: Positive
    adamw: Positive


class QuantizedTraining(Method):
    model_kinds = ("classifier", "detector", "super_resolver")
    task_kinds = ("classification", "detection", "super_resolution")
    quantizer_kind = "training"
    quantizes = True
    trains_network = True
    undrawn = ("gradient_clipped_share_target",)
    captions = {
        "gradients": (
            "Quantized gradients over training: clip ratio of the interval, share clipped against its target,"
            " quantization error of all gradients and of the large ones, relative to the largest."
        ),
        "gradient_histograms": "Gradients of the last logged step and the interval they were quantized in.",
    }
    effects = (
        *only_if("method.decay", ("step",), "method.milestones", "method.decay_factor"),
        *(
            Acts(f"method.learning_rate.{name}", "method.optimizer", (name,))
            for name in ("sgd", "adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad")
        ),
        *only_if("method.optimizer", ("sgd",), "method.momentum", "method.nesterov"),
    )
    optimizer: Literal["sgd", "adam", "adamw"]
    epochs: Count
    batch_size: BatchSize
    decay: Literal["cosine", "step", "constant"]
    decay_every: Literal["epoch", "step"]
    milestones: Annotated[list[OpenFraction], Field(min_length=1)]
    decay_factor: OpenFraction
    learning_rate: LearningRateByOptimizer
    scale_learning_rate: Positive
    momentum: Fraction
    weight_decay: NotNegative
    batch_norm_batches: CountFromZero
