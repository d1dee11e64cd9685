"""BatchNorm's running statistics, recomputed from training batches after training.

"Overcoming Oscillations in Quantization-Aware Training", Nagel et al., ICML 2022: weights that oscillate between levels
move a layer's output faster than a running mean can follow, so that the statistics used in evaluation do not match the
weights.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The normalizations of `model` that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]) -> None:
    """Set running means and variances to the plain mean over `batches` of each batch's mean and (unbiased) variance.

    forward: runs the network on a batch. As in the authors' code, only normalizations are in training mode meanwhile,
    so that the rest of the network is as in evaluation; afterwards all of it is in evaluation mode.
    """
    layers = batch_norms(model)
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch: a cumulative mean
        layer.train()
    for batch in batches:
        forward(batch)
    for layer, momentum in zip(layers, momenta):
        layer.momentum = momentum
    model.eval()
