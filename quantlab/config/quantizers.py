"""What conf/quantizer/*.yaml may hold. The values' meaning is said there."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from quantlab.config.fields import (
    AboveOne,
    BinaryBits,
    Bits,
    Count,
    GradientBits,
    Name,
    Negative,
    NotNegative,
    OpenFraction,
    Pattern,
    Positive,
    Section,
    Signed,
    Strict,
    Switch,
    TrainedBits,
    UnquantizedBits,
    UnquantizedGradientBits,
    UpToOne,
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


class AffineActivation(Strict):
    bits: Bits
    symmetric: Switch
    scale_search: Literal["min_max", "lp"]
    scales: Literal["per_group", "shared"]


class AffineEnd(Strict):
    weight_bits: Bits
    activation_bits: Bits


class PolicyRule(AffineEnd):
    modules: Pattern


def _moved(target: str) -> str:
    """Run directories and users' YAMLs still name the module that the policy stood in at first."""
    return target.replace(".wrap.", ".uniform_affine.")


class UniformAffine(Section):
    group = "quantizer"
    kind = "post-training"
    target: Annotated[
        Literal[
            "quantlab.quantizers.uniform_affine.UniformAffinePolicy", "quantlab.quantizers.wrap.UniformAffinePolicy"
        ],
        AfterValidator(_moved),
    ] = Field(alias="_target_")
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
    first_layer: AffineEnd
    last_layer: AffineEnd
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
    gradient: Gradient
    first_layer: EndLayer
    last_layer: EndLayer
    policy: list[TrainedRule]


class FixedPoint(TrainedQuantizer):
    target: Literal["quantlab.quantizers.fixed_point.FixedPointPolicy"] = Field(alias="_target_")
    activation: SignedPart
    output_scale: Switch


class LSQPart(Strict):
    bits: Bits


class LSQActivation(LSQPart):
    signed: Signed


class LSQ(TrainedQuantizer):
    target: Literal["quantlab.quantizers.lsq.LSQPolicy"] = Field(alias="_target_")
    weight: LSQPart
    activation: LSQActivation
    first_layer: AffineEnd
    last_layer: AffineEnd
    policy: list[PolicyRule]


class LearnedClipping(LSQ):
    target: Literal["quantlab.quantizers.learned_clipping.LearnedClippingPolicy"] = Field(alias="_target_")


class EWGS(TrainedQuantizer):
    target: Literal["quantlab.quantizers.ewgs.EWGSPolicy"] = Field(alias="_target_")
    delta: NotNegative


class DSQ(TrainedQuantizer):
    target: Literal["quantlab.quantizers.dsq.DSQPolicy"] = Field(alias="_target_")


class BinaryPart(Strict):
    bits: BinaryBits


class BinaryActivation(BinaryPart):
    signed: Signed


class BinaryEnd(Strict):
    weight_bits: BinaryBits
    activation_bits: BinaryBits


class BinaryRule(BinaryEnd):
    modules: Pattern


class ReActNet(TrainedQuantizer):
    target: Literal["quantlab.quantizers.binary.ReActNetPolicy"] = Field(alias="_target_")
    weight: BinaryPart
    activation: BinaryPart
    first_layer: BinaryEnd
    last_layer: BinaryEnd
    policy: list[BinaryRule]


class Binary(ReActNet):
    target: Literal["quantlab.quantizers.binary.BinaryPolicy"] = Field(alias="_target_")
    activation: BinaryActivation
