"""Euler's method for the probability flow (Karras et al. 2022, Alg. 1 without its corrector), as in k-diffusion and
diffusers.

The state is x_0 + s eps with s = sqrt((1 - abar) / abar), so the network's input is the state times sqrt(abar) = 1 /
sqrt(s^2 + 1):

    x' = x + (s' - s) (x - x_0) / s

Without clipping the images equal DDIM's at the same timesteps; intermediate states are scaled differently.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from quantlab.diffusion.samplers.base import State, W, Walk


def noise_ratio(alpha: float) -> float:
    """s at abar = `alpha`."""
    return float(((1 - alpha) / alpha) ** 0.5)


class Sampler(Walk):
    """sampler.name=euler."""

    needs_signal = True

    @classmethod
    def build(cls: type[W], levels: Tensor, sampler: Any, prediction: str = "epsilon") -> W:
        walk = super().build(levels, sampler, prediction)
        # The image hardly contributes here: the state's standard deviation is sqrt(s^2 + 1) where x_t's is 1.
        return replace(walk, start_scale=(noise_ratio(walk.levels[0]) ** 2 + 1) ** 0.5)

    def network_input(self, i: int, x: Tensor) -> Tensor:
        return x / float((noise_ratio(self.levels[i]) ** 2 + 1) ** 0.5)

    def towards(self, i: int, x: Tensor, output: Tensor, s: float) -> Tensor:
        """The state x of step i, moved to the noise `s` along the network's output."""
        here = noise_ratio(self.levels[i])
        x0, _ = self.image_and_noise(i, self.network_input(i, x), output)
        return x + (s - here) * (x - x0) / here

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        return State(self.towards(i, state.x, output, noise_ratio(self.ends[i])))
