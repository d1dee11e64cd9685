"""AdaRound (Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization").

A weight w between two codes is rounded down to floor(w/s) or up to floor(w/s) + 1 by a learned h(V) in [0, 1]:

    w~ = s (clamp(floor(w/s) + h(V) + z, q_min, q_max) - z)                                        (their Eq. 22)
    h(V) = clamp(sigmoid(V) (zeta - gamma) + gamma, 0, 1),   zeta = 1.1, gamma = -0.1              (their Eq. 23)
    f(V) = sum (1 - |2 h(V) - 1|^beta)                                                             (their Eq. 24)

The regulariser f pushes h to 0 or 1; a large beta acts only near the ends, a small one everywhere, hence the annealing
from beta_start to beta_end after a warm-up in which f is off.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def rectified_sigmoid(rounding: Tensor, zeta: float = 1.1, gamma: float = -0.1) -> Tensor:
    """h(V) of Eq. 23: values in [0, 1], of the shape of `rounding` (V).

    Its derivative is 0 where it is clipped, ends included, unlike that of the other quantizers: a weight outside the
    range of the codes starts at an end and stays there, as under Q-Diffusion, whose clamp of the codes stops its
    gradient. hardtanh's derivative is such under every version of torch; clamp's is not.
    """
    return F.hardtanh(torch.sigmoid(rounding) * (zeta - gamma) + gamma, 0.0, 1.0)


def inverse_rectified_sigmoid(fraction: Tensor, zeta: float = 1.1, gamma: float = -0.1) -> Tensor:
    """The V with h(V) = fraction, for fractions in [0, 1]: how V starts, so that the soft weight equals w."""
    return -torch.log((zeta - gamma) / (fraction - gamma) - 1)


def rounding_regularizer(soft: Tensor, beta: float) -> Tensor:
    """f of Eq. 24: sum(1 - |2h - 1|^beta) over `soft` (h, any shape); a scalar tensor, 0 when all of h is 0 or 1."""
    return (1 - (2 * soft - 1).abs().pow(beta)).sum()


def annealed_beta(progress: float, beta_start: float, beta_end: float, warmup: float) -> float | None:
    """beta at `progress` in [0, 1]: None (regulariser off) before `warmup`, then linear from beta_start to beta_end."""
    if progress < warmup:
        return None
    return beta_start + (beta_end - beta_start) * (progress - warmup) / max(1 - warmup, 1e-12)


def unsettled_count(soft: Tensor, margin: float = 0.05) -> Tensor:
    """How many h are farther than `margin` from both 0 and 1: what hardening will change. An integer scalar tensor."""
    return ((soft > margin) & (soft < 1 - margin)).sum()
