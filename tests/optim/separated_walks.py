"""Optimizers that momentum separation wraps, and steps of three clusters of subnets."""

import numpy as np
import pytest
import torch

from quantlab.optim import SGDT

OPTIMIZERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.02),
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.01, weight_decay=0.02),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.02),
    "sgdt": lambda weights: SGDT([{"params": weights, "discretize": [torch.round] * 3, "lr": 0.02}], weight_decay=0.02),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (4,), (2, 2))]


def draws(step, clusters=3):
    """(cluster, gradients) of a step: of three parameters one or two have none, as operations outside the subnet."""
    rng = np.random.default_rng((7, step))
    gradients = [
        torch.from_numpy(rng.standard_normal(p.shape)).float() if rng.random() < 0.6 else None for p in parameters()
    ]
    return int(rng.integers(clusters)), gradients


def walk(weights, optimizer, steps, clusters=3):
    for step in steps:
        cluster, gradients = draws(step, clusters)
        for weight, gradient in zip(weights, gradients):
            weight.grad = gradient
        optimizer.select(cluster)
        optimizer.step()
        optimizer.zero_grad()


def assert_equal(weights, others):
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
