"""What the quantizers for training share: bits of weights, inputs and gradients, and what is left out. The values'
meaning is said in conf/quantizer/*.yaml.

One that needs no more has no section of its own.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

from quantlab.config.effects import Acts, only_if
from quantlab.config.fields import (
    Count,
    GradientBits,
    Name,
    OpenFraction,
    Pattern,
    Signed,
    Strict,
    TrainedBits,
    UpToOne,
)
from quantlab.config.sections import Parts, Targeted

MOST_GRADIENT_BITS = {"bf16": 9, "fp16": 12}  # significant bits of the type, and the sign


class Gradient(Strict):
    bits: GradientBits
    granularity: Literal["tensor", "channel"]
    interval: Literal["large_gradient", "fixed", "min_max", "dsgc", "piecewise"]
    alpha: OpenFraction
    beta: OpenFraction
    gamma_min: OpenFraction
    gamma_max: UpToOne
    init: Literal["quantile", "search"]
    gamma: UpToOne
    period: Count
    shift: Count


class TrainedPart(Strict):
    bits: TrainedBits


class SignedPart(TrainedPart):
    signed: Signed


class EndLayer(Strict):
    weight_bits: TrainedBits
    activation_bits: TrainedBits


class TrainedRule(EndLayer):
    modules: Pattern


class TrainedQuantizer(Targeted, default_for="training"):
    """`one_scale`: whether a layer's integers have one scale, so that products can be made of them alone."""

    group = "quantizer"
    kind = "training"
    one_scale: ClassVar[bool] = False
    effects = (
        *only_if(
            "quantizer.gradient.interval",
            ("large_gradient",),
            *(f"quantizer.gradient.{key}" for key in ("beta", "gamma_min", "gamma_max", "init")),
        ),
        Acts("quantizer.gradient.gamma", "quantizer.gradient.interval", ("fixed",)),
        Acts("quantizer.gradient.period", "quantizer.gradient.interval", ("dsgc",)),
        Acts("quantizer.gradient.shift", "quantizer.gradient.interval", ("piecewise",)),
        *only_if(
            "quantizer.gradient.bits",
            tuple(range(2, 17)),
            *(f"quantizer.gradient.{key}" for key in Gradient.model_fields if key != "bits"),
        ),
        Acts("quantizer.activation.signed", "quantizer.activation.bits", tuple(range(1, 9))),
    )
    name: Name
    weight: TrainedPart
    activation: TrainedPart
    gradient: Gradient
    first_layer: EndLayer
    last_layer: EndLayer
    policy: list[TrainedRule]

    def check(self, parts: Parts) -> Iterator[str]:
        gradient = self.gradient
        if gradient.gamma_min > gradient.gamma_max:
            yield (
                f"quantizer.gradient.gamma_min: got {gradient.gamma_min}, allowed: up to gamma_max"
                f" ({gradient.gamma_max}); type quantizer.gradient.gamma_min={gradient.gamma_max}"
            )
        if gradient.interval == "piecewise" and gradient.bits == 2:
            yield (
                "quantizer.gradient.bits: got 2, but interval=piecewise gives each of its two ranges one bit less,"
                " allowed: 3 to 16; type quantizer.gradient.bits=3"
            )
        precision = "no" if parts.trainer is None else parts.trainer.mixed_precision
        most = MOST_GRADIENT_BITS.get(precision, 16)
        if most < gradient.bits != 32:
            yield (
                f"quantizer.gradient.bits: got {gradient.bits}, but trainer.mixed_precision={precision} cannot tell so"
                f" many levels apart, allowed: 2 to {most}; type trainer.mixed_precision=no"
            )
