"""Euler's method for the probability flow (Karras et al. 2022, Alg. 1 without its corrector), as in k-diffusion and
diffusers.

The state is x_0 + s eps with s = sqrt((1 - abar) / abar), so the network's input is the state times sqrt(abar) = 1 /
sqrt(s^2 + 1):

    x' = x + (s' - s) (x - x_0) / s

Without clipping the images equal DDIM's at the same timesteps; intermediate states are scaled differently.
"""

from torch import Tensor

from quantlab.diffusion.samplers.base import State, Walk


class Sampler(Walk):
    """sampler.name=euler."""

    needs_signal = True

    def level(self, i: int) -> float:
        """s before step i; i = len(self): after the last."""
        return float(((1 - self.alphas[i]) / self.alphas[i]) ** 0.5)

    def start(self, noise: Tensor) -> State:
        # The image hardly contributes here: the state's standard deviation is sqrt(s^2 + 1) where x_t's is 1.
        return State(noise * (self.level(0) ** 2 + 1) ** 0.5)

    def network_input(self, i: int, x: Tensor) -> Tensor:
        return x / float((self.level(i) ** 2 + 1) ** 0.5)

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        level = self.level(i)
        x0, _ = self.image_and_noise(i, self.network_input(i, state.x), output)
        return State(state.x + (self.level(i + 1) - level) * (state.x - x0) / level)
