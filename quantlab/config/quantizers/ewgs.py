"""What conf/quantizer/ewgs.yaml may hold. The values' meaning is said there."""

from quantlab.config.fields import NotNegative
from quantlab.config.quantizers.training import TrainedQuantizer


class EWGS(TrainedQuantizer, target="quantlab.quantizers.ewgs.EWGSPolicy"):
    delta: NotNegative
