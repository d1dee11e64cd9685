"""What conf/quantizer/learned_clipping.yaml may hold. The values' meaning is said there."""

from quantlab.config.quantizers.lsq import LSQ


class LearnedClipping(LSQ, target="quantlab.quantizers.learned_clipping.LearnedClippingPolicy"):
    pass
