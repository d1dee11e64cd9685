"""Euler's method with fresh noise in every step, "Euler a" of k-diffusion and diffusers: DDPM's ancestral step in the
scale of `euler`. With s as there, a step goes down to s_down and noise brings it up again:

    s_up^2 = s'^2 (s^2 - s'^2) / s^2,    s_down^2 = s'^2 - s_up^2
    x'     = x + (s_down - s) (x - x_0) / s + s_up z
"""

from torch import Tensor

from quantlab.diffusion.samplers.base import State
from quantlab.diffusion.samplers.euler import Sampler as Euler
from quantlab.diffusion.samplers.euler import noise_ratio


class Sampler(Euler):
    """sampler.name=euler_ancestral."""

    def noise_scale(self, i: int) -> float:
        here, there = noise_ratio(self.levels[i]), noise_ratio(self.ends[i])
        return float((there**2 * max(here**2 - there**2, 0.0)) ** 0.5 / here)

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        down = max(noise_ratio(self.ends[i]) ** 2 - self.noise_scale(i) ** 2, 0.0) ** 0.5
        return self.with_noise(i, self.towards(i, state.x, output, down), z)
