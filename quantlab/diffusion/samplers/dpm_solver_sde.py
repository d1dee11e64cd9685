"""The stochastic form of DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095, Sec. 5, "SDE-DPM-Solver++"): as `dpm_solver`,
but a step keeps exp(-2 h) of the signal-to-noise scale instead of exp(-h), and adds what is missing as new noise:

    x' = noise' / noise exp(-h) x + signal' ((1 - exp(-2 h)) x_0 + phi_1 D_1) + noise' sqrt(1 - exp(-2 h)) z

Order 1 is DDPM's step (DDIM with eta = 1). diffusers: `DPMSolverMultistepScheduler` with algorithm_type
"sde-dpmsolver++". Order 3 is left out: there its second difference has a weight that does not vanish with h.
"""

import math

from quantlab.diffusion.prediction import signal_and_noise
from quantlab.diffusion.samplers.dpm_solver import Sampler as DPMSolver


class Sampler(DPMSolver):
    """sampler.name=dpm_solver_sde."""

    rate = 2

    def noise_scale(self, i: int) -> float:
        _, noise = signal_and_noise(self.prediction, self.ends[i])
        return float(noise * (-math.expm1(-2 * self.interval(i))) ** 0.5)
