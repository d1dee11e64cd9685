"""What conf/quantizer/binary.yaml and reactnet.yaml may hold. The values' meaning is said there."""

from quantlab.config.fields import BinaryBits, Pattern, Signed, Strict
from quantlab.config.quantizers.training import TrainedQuantizer


class BinaryPart(Strict):
    bits: BinaryBits


class BinaryActivation(BinaryPart):
    signed: Signed


class BinaryEnd(Strict):
    weight_bits: BinaryBits
    activation_bits: BinaryBits


class BinaryRule(BinaryEnd):
    modules: Pattern


class ReActNet(TrainedQuantizer, target="quantlab.quantizers.binary.ReActNetPolicy"):
    weight: BinaryPart
    activation: BinaryPart
    first_layer: BinaryEnd
    last_layer: BinaryEnd
    policy: list[BinaryRule]


class Binary(ReActNet, target="quantlab.quantizers.binary.BinaryPolicy"):
    activation: BinaryActivation
