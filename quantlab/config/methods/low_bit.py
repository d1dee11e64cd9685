"""What conf/method/low_bit.yaml may hold. The values' meaning is said there."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from quantlab.config.effects import only_if
from quantlab.config.fields import Positive, Switch, UpToOne
from quantlab.config.methods.base import Curve, part_of
from quantlab.config.methods.quantized_training import QuantizedTraining
from quantlab.config.sections import Parts, by_option


class LowBit(QuantizedTraining, target="quantlab.methods.low_bit.LowBit"):
    own_pretraining = True
    curves = (
        Curve(("low_bit/large_gradient", "interval of large gradients"), "#E69F00", linewidth=2.2),
        Curve(("low_bit/min_max", "largest gradient"), "#332288", linestyle="--"),
        Curve(("low_bit/dsgc", "DSGC"), "#117733"),
        Curve(("low_bit/piecewise", "piecewise"), "#CC79A7"),
        Curve(("low_bit/fixed", "fixed interval"), "#777777", linestyle="--"),
    )
    effects = (
        *QuantizedTraining.effects,
        *only_if("method.deviation_scaling", (True,), "method.deviation_alpha", "method.deviation_beta"),
    )
    initialization: Literal["scratch", "full_precision"]
    deviation_scaling: Switch
    deviation_alpha: Positive
    deviation_beta: UpToOne
    integer_check: Switch

    @classmethod
    def variant(cls, config: Mapping[str, Any]) -> str:
        return part_of(config, "quantizer", "gradient", "interval") or ""

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        given = (
            "model.weights"
            if getattr(parts.model, "weights", None)
            else "model.pretrained"
            if getattr(parts.model, "pretrained", False)
            else None
        )
        if given and self.initialization == "scratch":
            # A rate for random weights would undo them.
            yield (
                f"method.initialization: got 'scratch' beside {given}, allowed: full_precision, which starts from these"
                " weights; type method.initialization=full_precision"
            )
        if parts.quantizer is not None and parts.quantizer.kind == self.quantizer_kind:
            if self.integer_check:
                yield from self._integer_check(parts.quantizer)
            if self.deviation_scaling:
                yield from self._deviation_scaling(parts.quantizer.gradient)

    def _integer_check(self, quantizer) -> Iterator[str]:
        if not quantizer.one_scale:
            fitting = [name for name, one in by_option("quantizer").items() if getattr(one, "one_scale", False)]
            best = self.best("quantizer", fitting)
            allowed = ", ".join([best, *(name for name in fitting if name != best)])
            yield (
                f"method.integer_check: quantizer={quantizer.name} has no one scale for its integers, allowed:"
                f" {allowed}; type quantizer={best}"
            )
        bits = (quantizer.weight.bits, quantizer.activation.bits, quantizer.gradient.bits)
        if 32 in bits or quantizer.gradient.interval == "piecewise":
            yield (
                "method.integer_check: needs weights and activations in 2 to 8 bits, gradients in 2 to 16, and an"
                " interval of one range; type method.integer_check=false"
            )

    @staticmethod
    def _deviation_scaling(gradient) -> Iterator[str]:
        if gradient.interval != "dsgc" or gradient.bits == 32:
            got = f"interval={gradient.interval}" if gradient.interval != "dsgc" else "bits=32"
            yield (
                f"method.deviation_scaling: got true, but quantizer.gradient.{got} measures no deviation, allowed:"
                " false; type method.deviation_scaling=false, or quantizer.gradient.interval=dsgc with bits from 2 to"
                " 16"
            )
