"""What every sampler is: a walk from noise to image, as a pure function from one state to the next.

A sampler's file is named as `model.sampler.name` names it and defines `Sampler`, a subclass of `Walk`. That is all it
takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quantlab.diffusion.prediction import image_and_noise
from quantlab.errors import RequestError


class State(NamedTuple):
    """Where a walk is: x [N, C, H, W], in the sampler's own scale, and what the solver remembers of earlier steps:
    tensors of x's shape,
    as many at every step of a walk."""

    x: Tensor
    memory: tuple[Tensor, ...] = ()

    def detached(self, needs_gradient: bool = False) -> "State":
        """The same values without a graph, as leaves that gather gradients if `needs_gradient`."""
        x, *memory = (one.detach().requires_grad_(needs_gradient) for one in (self.x, *self.memory))
        return State(x, tuple(memory))

    def on(self, device) -> "State":
        return State(self.x.to(device), tuple(one.to(device) for one in self.memory))


def spaced_timesteps(train_timesteps: int, steps: int, spacing: str) -> list[int]:
    """The walk's timesteps from noise to image, `steps` integers, not increasing.

    uniform: multiples of train_timesteps // steps from 0 (DDIM's "uniform", diffusers' "leading").
    trailing: down from the last one in steps of train_timesteps / steps (Lin et al. 2024, Table 2, as diffusers rounds
        it).
    quadratic: int(linspace(0, sqrt(0.8 train_timesteps), steps)^2) (DDIM's "quad", Q-Diffusion's CIFAR-10). For many
    steps it repeats small timesteps; those steps go nowhere (t' = t).
    """
    if spacing == "uniform":
        ascending = [i * (train_timesteps // steps) for i in range(steps)]
    elif spacing == "trailing":
        return [round(t) - 1 for t in np.arange(train_timesteps, 0, -train_timesteps / steps).tolist()]
    else:
        ascending = [int(root * root) for root in np.linspace(0, (0.8 * train_timesteps) ** 0.5, steps)]
    return ascending[::-1]


@dataclass(frozen=True)
class Walk:
    """timesteps[i] is t of step i, alphas[i] its abar, alphas[i + 1] the abar it leads to (the last is 1).

    prediction: what the network puts out, of `prediction.KINDS`. eta: how much noise a step adds, for samplers that can
        add any.
    clip_sample: clamp the predicted image to [-1, 1] at every step.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    eta: float = 0.0
    clip_sample: bool = False
    prediction: str = "epsilon"

    memories = 0  # tensors that the solver remembers
    needs_signal = False  # whether it cannot start from noise alone, abar = 0

    @classmethod
    def build(cls, alphas_cumprod: Tensor, sampler, prediction: str = "epsilon", final_alpha: float = 1.0) -> "Walk":
        """From abar of every training timestep (float [train_timesteps]) and a config's `sampler` section.

        Raises: RequestError for a solver with memory on timesteps that repeat.
        """
        timesteps = spaced_timesteps(len(alphas_cumprod), sampler.steps, sampler.spacing)
        if cls.memories and len(set(timesteps)) < len(timesteps):
            raise RequestError(
                f"model.sampler.spacing: got {sampler.spacing}, which repeats timesteps in {sampler.steps} steps, and "
                f"model.sampler.name={sampler.name} learns from the step before, allowed: uniform, trailing; type "
                "model.sampler.spacing=trailing"
            )
        alphas = [float(alphas_cumprod[t]) for t in timesteps] + [final_alpha]
        return cls(tuple(timesteps), tuple(alphas), sampler.eta, sampler.clip_sample, prediction)

    def __len__(self) -> int:
        return len(self.timesteps)

    # what a sampler says of its steps --------------------------------------------------------------------------------
    def start(self, noise: Tensor) -> State:
        """The state before the first step, from standard normal noise [N, C, H, W]."""
        return State(noise, tuple(noise.new_zeros(noise.shape) for _ in range(self.memories)))

    def network_input(self, i: int, x: Tensor) -> Tensor:
        """What the network is given at step i for the state's x."""
        return x

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        """The state after step i; output: the network's at this state; z: standard normal, needed where
        `noise_scale(i)` is above 0.
        """
        raise NotImplementedError  # every sampler's own

    def noise_scale(self, i: int) -> float:
        """Standard deviation of the noise that step i adds."""
        return 0.0

    def memory_weights(self, i: int) -> tuple[float, ...]:
        """By how much each remembered tensor counts in the x that step i makes: d x_{i+1} / d memory, a number each."""
        return (0.0,) * self.memories

    # what follows from that ------------------------------------------------------------------------------------------
    def image_and_noise(self, i: int, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 (clamped if `clip_sample`) and eps at step i, for x = sqrt(abar) x_0 + sqrt(1 - abar) eps."""
        x0, eps = image_and_noise(self.prediction, output, x, self.alphas[i])
        return x0.clamp(-1, 1) if self.clip_sample else x0, eps

    def output_weight(self, i: int) -> float:
        """b of step i: d x_{i+1} / d output, one number, since a step is linear in the output (but for `clip_sample`,
        which is left out)."""
        zero = torch.zeros((), dtype=torch.float64)
        state, unclipped = State(zero, (zero,) * self.memories), replace(self, clip_sample=False)
        at_one, at_zero = (unclipped.step(i, state, zero + output, zero).x for output in (1, 0))
        return float(at_one - at_zero)

    @property
    def adds_noise(self) -> bool:
        return any(self.noise_scale(i) > 0 for i in range(len(self)))

    def goes_nowhere(self, i: int) -> bool:
        """Whether step i ends at the timestep it starts from (t' = t): it is skipped."""
        return self.alphas[i] == self.alphas[i + 1]

    def groups(self, group_size: int) -> list[range]:
        """The walk cut into disjoint runs of `group_size` steps, noise to image; the last is shorter if it must be."""
        return [range(i, min(i + group_size, len(self))) for i in range(0, len(self), group_size)]

    def moving(self, steps: Sequence[int]) -> list[int]:
        """Those of `steps` that go somewhere."""
        return [i for i in steps if not self.goes_nowhere(i)]
