"""PNDM without its Runge-Kutta start, "PLMS" (Liu et al., ICLR 2022; as in Stable Diffusion and diffusers): DDIM steps
along a combination of the network's last four outputs (Adams-Bashforth),

    x' = sqrt(abar') x_0 + sqrt(1 - abar') eps      of      (55 o_i - 59 o_{i-1} + 37 o_{i-2} - 9 o_{i-3}) / 24

and lower orders while there are fewer. The first step is made twice (pseudo improved Euler): the second time with the
mean of both outputs, from the same state. So a walk of T steps evaluates the network T + 1 times, and has T + 1 steps
here. Remembered are three outputs. The state before the first step needs no memory: it is found again from the state
after it, x_1 = A x_0 + B o_0.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quantlab.diffusion.samplers.base import State, W, Walk, weighted_sum
from quantlab.errors import RequestError

# By the number of outputs: the weight of the last one, the one before it, ...
ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


class Sampler(Walk):
    """sampler.name=pndm."""

    @property
    def memories(self) -> int:
        return 3

    @classmethod
    def build(cls: type[W], levels: Tensor, sampler: Any, prediction: str = "epsilon") -> W:
        if sampler.clip_sample:
            raise RequestError(
                "model.sampler.clip_sample: got true, but pndm combines outputs of several steps, allowed: false; type"
                " model.sampler.clip_sample=false"
            )
        walk = super().build(levels, sampler, prediction)
        if len(walk) == 1:
            return walk
        (first, *times), (level, *levels_after), (end, *ends) = walk.timesteps, walk.levels, walk.ends
        return replace(
            walk, timesteps=(first, times[0], *times), levels=(level, level, *levels_after), ends=(end, end, *ends)
        )

    def along(self, i: int, x: Tensor, output: Tensor) -> Tensor:
        """DDIM's step i."""
        x0, eps = self.image_and_noise(i, x, output)
        there = self.ends[i]
        end: Tensor = there**0.5 * x0 + (1 - there) ** 0.5 * eps
        return end

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        if i == 1:
            first, *_ = state.memory
            zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
            kept, moved = float(self.along(0, one, zero)), float(self.along(0, zero, one))
            start = (state.x - moved * first) / kept
            return State(self.along(1, start, (output + first) / 2), state.memory)
        outputs = (output, *state.memory)
        weights = ADAMS_BASHFORTH[min(max(i - 1, 0), 3)]
        return State(self.along(i, state.x, weighted_sum(weights, outputs)), outputs[:3])
