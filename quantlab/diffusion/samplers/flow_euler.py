"""Euler's method for a flow (rectified flow: Liu et al., ICLR 2023, Alg. 1; SD3: Esser et al., ICML 2024), diffusers'
`FlowMatchEulerDiscreteScheduler`. On the straight path x = (1 - sigma) x_0 + sigma eps the network's output is the
velocity v = eps - x_0:

    x' = x + (sigma' - sigma) v

`shift` moves the walk's sigmas towards the noise (`base.shifted`). `stochastic` draws new noise in every step instead:

    x' = (1 - sigma') x_0 + sigma' z,    x_0 = x - sigma v
"""

from dataclasses import dataclass

from torch import Tensor

from quantlab.diffusion.samplers.base import State, Walk


@dataclass(frozen=True)
class Sampler(Walk):
    """sampler.name=flow_euler."""

    stochastic: bool = False

    processes = ("flow",)

    def noise_scale(self, i: int) -> float:
        return self.ends[i] if self.stochastic else 0.0

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        here, there = self.levels[i], self.ends[i]
        if not (self.stochastic or self.clip_sample):
            return State(state.x + (there - here) * output)
        x0, _ = self.image_and_noise(i, state.x, output)
        if self.stochastic:
            return self.with_noise(i, (1 - there) * x0, z)
        return State(state.x + (there - here) * (state.x - x0) / here)
