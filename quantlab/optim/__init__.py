"""Optimizers and controllers that work in any training script: they know tensors, not quantlab's runs."""

from quantlab.optim.calr import CaLR
from quantlab.optim.momentum_separation import MomentumSeparation
from quantlab.optim.transition_rate import SGDT, AdamT, AdamWT

__all__ = ["SGDT", "AdamT", "AdamWT", "CaLR", "MomentumSeparation"]
