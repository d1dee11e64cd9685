"""Quantizers: pure maths, thin modules around it, and `insert`, which puts them into any network.

They know neither methods nor tasks and can be used alone.
"""

from quantlab.quantizers.gradient import GradientQuantizer
from quantlab.quantizers.gradient_interval import LargeGradient

__all__ = ["GradientQuantizer", "LargeGradient"]
