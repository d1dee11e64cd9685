"""What conf/quantizer/fixed_point.yaml may hold. The values' meaning is said there."""

from collections.abc import Iterator

from quantlab.config.fields import Switch
from quantlab.config.quantizers.training import SignedPart, TrainedQuantizer
from quantlab.config.sections import Parts


class FixedPoint(TrainedQuantizer, target="quantlab.quantizers.fixed_point.FixedPointPolicy"):
    one_scale = True
    activation: SignedPart
    output_scale: Switch

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        if parts.model is not None and not parts.model.normalizes and not self.output_scale:
            # Fixed-point numbers have lost their size: with 4 bits super-resolution ends below bicubic upsampling.
            yield (
                f"quantizer.output_scale: got false, but no normalization follows the layers of"
                f" model={parts.model.name}, allowed: true, or another quantizer; type quantizer.output_scale=true"
            )
