"""What tests of quantized gradients share."""

import torch

from quantlab.quantizers.gradient import GradientQuantizer
from quantlab.quantizers.gradient_interval import LargeGradient


def large_gradient(**changed) -> LargeGradient:
    return LargeGradient(**({"alpha": 1e-3, "beta": 1e-3, "low": 1e-3, "high": 1.0, "init": "quantile"} | changed))


def passed_back(quantizer: GradientQuantizer, gradient: torch.Tensor) -> torch.Tensor:
    """What the quantizer makes of `gradient` on its way back."""
    x = torch.zeros_like(gradient, requires_grad=True)
    quantizer(x).backward(gradient)
    return x.grad
