"""Optimizers with scheduled transition rates, and walks of their weights."""

import torch

from quantlab.optim import SGDT, AdagradT, AdamaxT, AdamT, AdamWT, NAdamT, RMSpropT

PAIRS = [
    (SGDT, torch.optim.SGD),
    (AdamT, torch.optim.Adam),
    (AdamWT, torch.optim.AdamW),
    (NAdamT, torch.optim.NAdam),
    (AdamaxT, torch.optim.Adamax),
    (RMSpropT, torch.optim.RMSprop),
    (AdagradT, torch.optim.Adagrad),
]
OPTIMIZERS = [ours for ours, _ in PAIRS]


def sign(w):
    return torch.where(w >= 0, 1, -1)


def rounded(bits):
    """Discrete weights of `bits` bits, the scale being 1."""
    levels = 2 ** (bits - 1)
    return sign if bits == 1 else lambda w: (w * levels).clamp(-levels, levels - 1).round()


def scheduled(optimizer, weight, function=sign, target=0.5, **options):
    return optimizer([{"params": [weight], "discretize": [function], "lr": target}], **options)


def walked(weights, optimizer, steps=20, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)
        optimizer.step()
    return weights


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (4,))]
