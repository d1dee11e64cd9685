"""Optimizers and controllers that work in any training script: they know tensors, not quantlab's runs."""

from quantlab.optim.calr import CaLR
from quantlab.optim.momentum_separation import MomentumSeparation
from quantlab.optim.transition_rate import SGDT, AdagradT, AdamaxT, AdamT, AdamWT, NAdamT, RMSpropT

__all__ = ["SGDT", "AdagradT", "AdamT", "AdamWT", "AdamaxT", "CaLR", "MomentumSeparation", "NAdamT", "RMSpropT"]
