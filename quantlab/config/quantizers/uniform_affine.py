"""What conf/quantizer/uniform_affine.yaml may hold. The values' meaning is said there."""

from typing import Literal

from quantlab.config.effects import Acts, only_if
from quantlab.config.fields import (
    AboveOne,
    Bits,
    Name,
    Negative,
    Pattern,
    Positive,
    Strict,
    Switch,
    UnquantizedGradientBits,
)
from quantlab.config.sections import Targeted


class AffineWeight(Strict):
    bits: Bits
    symmetric: Switch
    granularity: Literal["output_channel", "tensor"]
    scale_search: Literal["min_max", "lp"]
    rounding: Literal["straight_through", "adaround", "nearest"]


class AffineActivation(Strict):
    bits: Bits
    symmetric: Switch
    scale_search: Literal["min_max", "lp"]
    scales: Literal["per_group", "shared"]


class NoGradientBits(Strict):
    bits: UnquantizedGradientBits


class AffineEnd(Strict):
    weight_bits: Bits
    activation_bits: Bits


class AffineRule(AffineEnd):
    modules: Pattern


class UniformAffine(Targeted, target="quantlab.quantizers.uniform_affine.UniformAffinePolicy"):
    group = "quantizer"
    kind = "post-training"
    effects = (
        *only_if("quantizer.weight.rounding", ("adaround", "straight_through"), "quantizer.zeta", "quantizer.gamma"),
        Acts("quantizer.softmax_bits", "quantizer.attention", (True,)),
        *only_if(
            "quantizer.weight.bits",
            tuple(range(2, 9)),
            *(f"quantizer.weight.{key}" for key in ("symmetric", "granularity", "scale_search", "rounding")),
        ),
        *only_if(
            "quantizer.activation.bits",
            tuple(range(2, 9)),
            *(f"quantizer.activation.{key}" for key in ("symmetric", "scale_search", "scales")),
        ),
    )
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
    policy: list[AffineRule]
    preset: Literal["auto", "none", "q_diffusion", "ptqd", "tfmq", "pcr", "vidit_q", "transformer"]
