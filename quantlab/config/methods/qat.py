"""What conf/method/qat.yaml may hold. The values' meaning is said there."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from quantlab.config.effects import Acts, only_if
from quantlab.config.fields import (
    Count,
    Directory,
    File,
    Fraction,
    Name,
    NotNegative,
    OpenFraction,
    OrNull,
    Positive,
    Strict,
    Switch,
    UpToOne,
)
from quantlab.config.methods.base import Curve, part_of
from quantlab.config.methods.quantized_training import LearningRateByOptimizer, QuantizedTraining
from quantlab.config.sections import Parts


class LearningRateOfQAT(LearningRateByOptimizer):
    nadam: Positive
    adamax: Positive
    rmsprop: Positive
    adagrad: Positive


class Dampening(Strict):
    weight: NotNegative
    start: Fraction
    aggregation: Literal["kernel_mean", "sum", "mean"]


class Freezing(Strict):
    threshold_start: Positive
    threshold_end: Positive
    start: Fraction
    mean_from: Literal["start_of_freezing", "start_of_run"]
    max_bits: Count


class Teacher(Strict):
    architecture: OrNull[Name]
    weights: OrNull[File]


class QAT(QuantizedTraining, target="quantlab.methods.qat.QAT"):
    variant_keys = ("schedule", "optimizer", "oscillation")
    curves = (
        Curve(("qat/sgd", "SGD"), "#CC79A7", linestyle="--"),
        Curve(("qat/sgdt", "SGDT"), "#882255", linewidth=2.2),
        Curve(("qat/adam", "Adam"), "#56B4E9", linestyle="--"),
        Curve(("qat/adamt", "AdamT"), "#332288", linewidth=2.2),
        Curve(("qat/adamw", "AdamW"), "#8C6D31", linestyle="--"),
        Curve(("qat/adamwt", "AdamWT"), "#117733", linewidth=2.2),
    )
    undrawn = ("target_transition_rate", *QuantizedTraining.undrawn)
    captions = {
        "transitions": (
            "Weight transitions over training: running transition rate against its target, transition-adaptive learning"
            " rate, effective step size, distance of latent weights to their transition point, share of oscillating"
            " weights."
        ),
        "latent_weights": "Latent weights at the end, normalized, with the transition points.",
        **QuantizedTraining.captions,
    }
    effects = (
        *QuantizedTraining.effects,
        *only_if(
            "method.schedule",
            ("transition_rate",),
            "method.target_transition_rate",
            "method.target_bits",
            "method.rule",
            "method.eta",
        ),
        Acts("method.eta", "method.rule", ("additive",)),
        Acts("method.dampening", "method.oscillation", ("dampening",)),
        Acts("method.freezing", "method.oscillation", ("freezing",)),
    )
    start: OrNull[Directory]
    teacher: Teacher
    schedule: Literal["transition_rate", "learning_rate"]
    optimizer: Literal["sgd", "adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad"]
    learning_rate: LearningRateOfQAT
    nesterov: Switch
    target_transition_rate: UpToOne
    target_bits: Literal["layer", "section"]
    rule: Literal["additive", "multiplicative", "momentum_multiplicative"]
    m: Fraction
    eta: Positive
    oscillation: Literal["none", "dampening", "freezing"]
    m_o: OpenFraction
    dampening: Dampening
    freezing: Freezing

    @classmethod
    def variant(cls, config: Mapping[str, Any]) -> str:
        """The optimizer, with a "t" under scheduled transitions, and the cure of oscillations: `sgdt+freezing`."""
        section = part_of(config, "method") or {}
        if "schedule" not in section:
            return ""
        cure = section.get("oscillation", "none")
        scheduled = "t" if section["schedule"] == "transition_rate" else ""
        return f"{section.get('optimizer')}{scheduled}" + ("" if cure == "none" else f"+{cure}")

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        quantizer = parts.quantizer
        if (
            self.schedule == "transition_rate"
            and quantizer is not None
            and quantizer.weight.bits == 32 != quantizer.activation.bits
        ):
            yield (
                "quantizer.weight.bits: got 32, but method.schedule=transition_rate schedules the transitions of"
                " quantized weights; type quantizer.weight.bits=2, or method.schedule=learning_rate"
            )
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            yield (
                "method.nesterov: got true, but method.momentum=0 leaves nothing to look ahead with, allowed: false;"
                " type method.nesterov=false or method.momentum=0.9"
            )
        yield from self._teacher(parts.task)

    def _teacher(self, task) -> Iterator[str]:
        teacher = self.teacher
        if teacher.architecture is None and teacher.weights is None:
            return
        if task is not None and task.kind != "classification":
            yield (
                f"method.teacher: predicts classes, but task={task.name} is {task.kind}, allowed: null; type"
                " method.teacher.architecture=null method.teacher.weights=null"
            )
        if teacher.architecture == "start":
            if teacher.weights is not None:
                yield (
                    f"method.teacher.weights: got '{teacher.weights}' beside architecture=start, which has its own,"
                    " allowed: null; type method.teacher.weights=null"
                )
            if self.start is not None:
                yield (
                    "method.teacher.architecture: got start, but method.start begins with a quantized network, allowed:"
                    " one of timm's; type method.teacher.architecture=null method.teacher.weights=DIR, the run of"
                    " method=pretrain it came from"
                )
