"""DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095, Alg. 2: "2M"): a multistep solver whose memory is the images
predicted in earlier steps.

With lambda = log(signal / noise), h = lambda' - lambda of this step, h_0 and h_1 of the one and two before, r_k = h_k /
h, and x_0, y_0, z_0 the images of this step and of those two:

    x' = noise' / noise x + signal' ((1 - exp(-h)) x_0 + phi_1 D_1 + phi_2 D_2)

order 1: D_1 = D_2 = 0, which is DDIM. order 2, the default: D_1 = (x_0 - y_0) / r_0 and D_2 = 0, where phi_1 is (1 -
exp(-h)) / 2 ("midpoint") or 1 - (1 - exp(-h)) / h ("heun"). order 3, with phi_1 as of heun and phi_2 = 1/2 - (h - 1 +
exp(-h)) / h^2:

    D_2 = ((x_0 - y_0) / r_0 - (y_0 - z_0) / r_1) / (r_0 + r_1),    D_1 = (x_0 - y_0) / r_0 + r_0 D_2

The first steps have no memory, and a step to no noise at all, where h is infinite, is of order 1: x' = x_0. For
stability walks of fewer than 15 steps end with lower orders (`lower_order_final`). All is as in diffusers'
`DPMSolverMultistepScheduler`.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from quantlab.diffusion.prediction import IMAGE, signal_and_noise
from quantlab.diffusion.samplers.base import State, Walk, weighted_sum


@dataclass(frozen=True)
class Sampler(Walk):
    """sampler.name=dpm_solver."""

    order: int = 2
    solver_type: str = "midpoint"  # or heun
    lower_order_final: bool = True
    euler_at_final: bool = False

    needs_signal = True
    processes = ("diffusion", "flow")
    rate = 1  # of exp(-rate h); 2 in the stochastic form

    @property
    def memories(self) -> int:
        return self.order - 1

    def step_order(self, i: int) -> int:
        """The order of step i."""
        last, is_short = len(self) - 1, self.lower_order_final and len(self) < 15
        if i == last and (self.euler_at_final or is_short or self.ends[i] == IMAGE[self.prediction]):
            return 1
        return min(self.order, 2 if i == last - 1 and is_short else self.order, i + 1)

    def log_snr(self, level: float) -> float:
        """lambda at a level of noise."""
        signal, noise = signal_and_noise(self.prediction, level)
        return math.log(signal / noise) if noise else math.inf

    def interval(self, i: int) -> float:
        """h of step i."""
        return self.log_snr(self.ends[i]) - self.log_snr(self.levels[i])

    def image_weights(self, i: int) -> tuple[float, ...]:
        """The weights in x' of the image predicted in this step, of that one step before, ...: as many as the order."""
        signal, _ = signal_and_noise(self.prediction, self.ends[i])
        h, order = self.interval(i), self.step_order(i)
        gone, u = -math.expm1(-self.rate * h), self.rate * h
        whole = signal * gone
        if order == 1:
            return (whole,)
        first = whole / 2 if order == 2 and self.solver_type == "midpoint" else signal * (1 - gone / u)
        r0 = (self.log_snr(self.levels[i]) - self.log_snr(self.levels[i - 1])) / h
        if order == 2:
            return whole + first / r0, -first / r0
        r1 = (self.log_snr(self.levels[i - 1]) - self.log_snr(self.levels[i - 2])) / h
        second = signal * (0.5 - (u - gone) / u**2)
        # of (x_0 - y_0) / r_0 and of (y_0 - z_0) / r_1
        later, earlier = first + (first * r0 + second) / (r0 + r1), -(first * r0 + second) / (r0 + r1)
        return whole + later / r0, earlier / r1 - later / r0, -earlier / r1

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        x0, _ = self.image_and_noise(i, state.x, output)
        images = (x0, *state.memory)
        noise, noise_after = (signal_and_noise(self.prediction, level)[1] for level in (self.levels[i], self.ends[i]))
        kept = noise_after / noise * (1 if self.rate == 1 else math.exp(-self.interval(i)))
        x = weighted_sum((kept, *self.image_weights(i)), (state.x, *images))
        return State(self.with_noise(i, x, z).x, images[: self.memories])
