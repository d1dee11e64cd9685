"""What conf/quantizer/lsq.yaml may hold. The values' meaning is said there."""

from quantlab.config.fields import Bits, Pattern, Signed, Strict
from quantlab.config.quantizers.training import TrainedQuantizer


class LSQPart(Strict):
    bits: Bits


class LSQActivation(LSQPart):
    signed: Signed


class LSQEnd(Strict):
    weight_bits: Bits
    activation_bits: Bits


class LSQRule(LSQEnd):
    modules: Pattern


class LSQ(TrainedQuantizer, target="quantlab.quantizers.lsq.LSQPolicy"):
    one_scale = True
    weight: LSQPart
    activation: LSQActivation
    first_layer: LSQEnd
    last_layer: LSQEnd
    policy: list[LSQRule]
