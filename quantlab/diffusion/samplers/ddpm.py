"""DDPM's ancestral sampling (Ho et al. 2020, Alg. 2), over any timesteps as in Nichol and Dhariwal 2021 (Sec. 4). With
alpha = abar_t / abar_t', the share of the signal that noising from t' to t keeps, and beta = 1 - alpha:

    x_t'    = sqrt(abar_t') beta / (1 - abar_t) x_0 + sqrt(alpha) (1 - abar_t') / (1 - abar_t) x_t + sigma z    (Eq. 7)
    sigma^2 = beta (1 - abar_t') / (1 - abar_t)                                             ("fixed small", Sec. 3.2)

The last step adds no noise. Without clipping it is DDIM with eta = 1. "fixed large" has sigma^2 = beta, and noise in
every step but that of t = 0.
"""

from dataclasses import dataclass

from torch import Tensor

from quantlab.diffusion.samplers.base import State, Walk


@dataclass(frozen=True)
class Sampler(Walk):
    """sampler.name=ddpm."""

    variance: str = "fixed_small"  # or fixed_large

    def noise_scale(self, i: int) -> float:
        here, there = self.levels[i], self.ends[i]
        if self.variance == "fixed_large":
            return float((1 - here / there) ** 0.5) if self.timesteps[i] else 0.0
        return float(((1 - here / there) * (1 - there) / (1 - here)) ** 0.5)

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        """Eq. 7."""
        here, there = self.levels[i], self.ends[i]
        x0, _ = self.image_and_noise(i, state.x, output)
        kept = here / there
        x = there**0.5 * (1 - kept) / (1 - here) * x0 + kept**0.5 * (1 - there) / (1 - here) * state.x
        return self.with_noise(i, x, z)
