"""DDIM (Song et al., ICLR 2021, Eq. 12). With abar_t the cumulative alpha and t' < t the next timestep of the walk:

    sigma = eta sqrt((1 - abar_t') / (1 - abar_t)) sqrt(1 - abar_t / abar_t')
    x_t'  = sqrt(abar_t') x_0 + sqrt(1 - abar_t' - sigma^2) eps + sigma z                                            (1)

For an epsilon network without clipping this is x_t' = a_t x_t + b_t eps + sigma z with a_t = sqrt(abar_t' / abar_t).
eta = 1 gives DDPM's variance. diffusers' `DDIMScheduler.step` is the same map where both apply, but supports only
equally spaced timesteps.
"""

from torch import Tensor

from quantlab.diffusion.samplers.base import State, Walk


class Sampler(Walk):
    """sampler.name=ddim."""

    def noise_scale(self, i: int) -> float:
        here, there = self.levels[i], self.ends[i]
        return float(self.eta * ((1 - there) / (1 - here)) ** 0.5 * max(1 - here / there, 0.0) ** 0.5)

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        """Eq. (1)."""
        there, sigma = self.ends[i], self.noise_scale(i)
        x0, eps = self.image_and_noise(i, state.x, output)
        x = there**0.5 * x0 + max(1 - there - sigma**2, 0.0) ** 0.5 * eps
        return self.with_noise(i, x, z)
