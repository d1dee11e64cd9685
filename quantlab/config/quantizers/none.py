"""What conf/quantizer/none.yaml holds."""

from typing import Literal

from quantlab.config.fields import Strict, UnquantizedBits
from quantlab.config.sections import Section


class NoBits(Strict):
    bits: UnquantizedBits


class NoQuantizer(Section, name="none"):
    group = "quantizer"
    name: Literal["none"]
    weight: NoBits
    activation: NoBits
    gradient: NoBits
