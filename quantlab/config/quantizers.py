"""What conf/quantizer/*.yaml may hold. The values' meaning is said there."""

from typing import Literal

from pydantic import Field

from quantlab.config.fields import (
    AboveOne, Bits, Name, Negative, Pattern, Positive, Section, Signed, Strict, Switch, TrainedBits,
    UnquantizedBits, UnquantizedGradientBits,
)


class NoBits(Strict):
    bits: UnquantizedBits


class NoQuantizer(Section):
    group = "quantizer"
    name: Literal["none"]
    weight: NoBits
    activation: NoBits
    gradient: NoBits


class AffineWeight(Strict):
    bits: Bits
    symmetric: Switch
    granularity: Literal["output_channel", "tensor"]
    scale_search: Literal["min_max", "lp"]
    rounding: Literal["straight_through", "adaround", "nearest"]


class NoGradientBits(Strict):
    bits: UnquantizedGradientBits


class AffineActivation(Strict):
    bits: Bits
    symmetric: Switch
    scale_search: Literal["min_max", "lp"]
    scales: Literal["per_group", "shared"]


class PolicyRule(Strict):
    modules: Pattern
    weight_bits: Bits
    activation_bits: Bits


class UniformAffine(Section):
    group = "quantizer"
    kind = "post-training"
    target: Literal["quantlab.quantizers.wrap.UniformAffinePolicy"] = Field(alias="_target_")
    name: Name
    weight: AffineWeight
    activation: AffineActivation
    gradient: NoGradientBits
    p: Positive
    zeta: AboveOne
    gamma: Negative
    attention: Switch
    softmax_bits: Bits
    split_shortcuts: Switch
    policy: list[PolicyRule]


class TrainedPart(Strict):
    bits: TrainedBits


class EndLayer(Strict):
    weight_bits: TrainedBits
    activation_bits: TrainedBits


class TrainedRule(EndLayer):
    modules: Pattern


class SignedPart(TrainedPart):
    signed: Signed


class TrainedQuantizer(Section):
    group = "quantizer"
    kind = "training"
    name: Name
    weight: TrainedPart
    activation: TrainedPart
    gradient: NoGradientBits
    first_layer: EndLayer
    last_layer: EndLayer
    policy: list[TrainedRule]


class FixedPoint(TrainedQuantizer):
    target: Literal["quantlab.quantizers.fixed_point.FixedPointPolicy"] = Field(alias="_target_")
    activation: SignedPart
    output_scale: Switch
