"""UniPC (Zhao et al., NeurIPS 2023, arXiv 2302.04867, Alg. 1 and 2, in the form that predicts images): a multistep
predictor as `dpm_solver` is one, and a corrector, which makes the last step again once the network was evaluated at its
end. Both take one evaluation a step.

With lambda and h as in `dpm_solver`, m_0 the image predicted at the start of a step, m_k that of k steps before, r_k =
(lambda_{-k} - lambda) / h < 0, D_k = (m_k - m_0) / r_k, and B = exp(-h) - 1 ("bh2") or -h ("bh1"):

    x'   = noise' / noise x^c - signal' ((exp(-h) - 1) m_0 + B sum_k rho_k D_k)                                (UniP-p)
    x'^c = noise' / noise x^c - signal' ((exp(-h) - 1) m_0 + B (sum_k rho^c_k D_k + rho^c_p (m' - m_0)))       (UniC-p)

with k = 1 .. p - 1, m' the image predicted at x', and rho, rho^c the solutions of the paper's linear systems (Eq. 8).
The two differ in the sums alone, so that x'^c is found from x' and the images: neither x^c is remembered, nor does the
state's noise differ from x'. As in diffusers' `UniPCMultistepScheduler`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from quantlab.diffusion.prediction import signal_and_noise
from quantlab.diffusion.samplers.base import State, Walk, weighted_sum


class Sums(NamedTuple):
    """Of one step: signal' B; the weights of m_k - m_0 for k = 1 .. p - 1 in the predictor and in the corrector; and
    that of m' - m_0.
    """

    scale: float
    predicted: list[float]
    corrected: list[float]
    last: float


@dataclass(frozen=True)
class Sampler(Walk):
    """sampler.name=unipc."""

    order: int = 2
    solver_type: str = "bh2"  # or bh1
    lower_order_final: bool = True
    uncorrected: tuple[int, ...] = ()  # steps that are not made again

    needs_signal = True
    processes = ("diffusion", "flow")

    @property
    def memories(self) -> int:
        return self.order

    def step_order(self, i: int) -> int:
        """p of step i."""
        left = len(self) - i if self.lower_order_final else self.order
        return min(self.order, left, i + 1)

    def log_snr(self, level: float) -> float:
        """lambda at a level of noise."""
        signal, noise = signal_and_noise(self.prediction, level)
        return math.log(signal / noise) if noise else math.inf

    def interval(self, i: int) -> float:
        """h of step i."""
        return self.log_snr(self.ends[i]) - self.log_snr(self.levels[i])

    def sums(self, i: int) -> Sums:
        """The differences in step i."""
        h, order = self.interval(i), self.step_order(i)
        signal, _ = signal_and_noise(self.prediction, self.ends[i])
        b_of_h = -h if self.solver_type == "bh1" else math.expm1(-h)
        here = self.log_snr(self.levels[i])
        r = [(self.log_snr(self.levels[i - k]) - here) / h for k in range(1, order)]
        powers = np.array([[*(one**k for one in r), 1.0] for k in range(order)])
        right, phi, factorial = [], math.expm1(-h) / -h - 1, 1
        for k in range(1, order + 1):
            right.append(phi * factorial / b_of_h)
            factorial *= k + 1
            phi = phi / -h - 1 / factorial
        # The first coefficients of either are 1/2, which solves the systems up to the order (below Eq. 8)
        rho = [0.5] if order == 2 else np.linalg.solve(powers[:-1, :-1], right[:-1]).tolist() if order > 2 else []
        *rho_corrected, last = [0.5] if order == 1 else np.linalg.solve(powers, right).tolist()
        return Sums(
            signal * b_of_h,
            [one / r_k for one, r_k in zip(rho, r)],
            [one / r_k for one, r_k in zip(rho_corrected, r)],
            last,
        )

    def correction_weights(self, i: int) -> tuple[float, ...]:
        """What the corrector adds to the state of step i: weights of the image predicted now, one step before, ..."""
        if i == 0 or i - 1 in self.uncorrected:
            return ()
        scale, predicted, corrected, last = self.sums(i - 1)
        before = [scale * (one - other) for one, other in zip(predicted, corrected)]
        return -scale * last, scale * last - sum(before), *before

    def prediction_weights(self, i: int) -> tuple[float, ...]:
        """The weights in x' of the image predicted now, one step before, ..."""
        signal, _ = signal_and_noise(self.prediction, self.ends[i])
        whole = -signal * math.expm1(-self.interval(i))
        if self.step_order(i) == 1:
            return (whole,)
        scale, predicted, *_ = self.sums(i)
        return whole + scale * sum(predicted), *(-scale * one for one in predicted)

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        m0, _ = self.image_and_noise(i, state.x, output)
        images = (m0, *state.memory)
        corrected = weighted_sum((1.0, *self.correction_weights(i)), (state.x, *images))
        noise, noise_after = (signal_and_noise(self.prediction, level)[1] for level in (self.levels[i], self.ends[i]))
        x = weighted_sum((noise_after / noise, *self.prediction_weights(i)), (corrected, *images))
        return State(x, images[: self.memories])
