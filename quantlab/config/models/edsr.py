"""What conf/model/edsr.yaml and its likes may hold. The values' meaning is said there."""

from quantlab.config.fields import Layers, UpToOne, Width
from quantlab.config.models.base import SuperResolver


class EDSR(SuperResolver, target="quantlab.models.edsr.build_edsr"):
    normalizes = False
    blocks: Layers
    channels: Width
    residual_scale: UpToOne
