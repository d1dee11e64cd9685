"""Base of all samplers: a walk from noise to image, as a pure function from one state to the next.

A sampler is a file named after its value of `model.sampler.name` that defines `Sampler`, a subclass of `Walk`. Nothing
else is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quantlab.diffusion.prediction import image_and_noise
from quantlab.errors import RequestError


class State(NamedTuple):
    """The state of a walk: x [N, C, H, W], in the sampler's own scale, and the solver's memory of earlier steps:
    tensors of x's shape, the same number at every step.
    """

    x: Tensor
    memory: tuple[Tensor, ...] = ()

    def detached(self, needs_gradient: bool = False) -> "State":
        """The same values without a graph, as leaves that accumulate gradients if `needs_gradient`."""
        x, *memory = (one.detach().requires_grad_(needs_gradient) for one in (self.x, *self.memory))
        return State(x, tuple(memory))

    def on(self, device: torch.device | str) -> "State":
        return State(self.x.to(device), tuple(one.to(device) for one in self.memory))


def spaced_timesteps(train_timesteps: int, steps: int, spacing: str) -> list[int]:
    """The walk's timesteps from noise to image, `steps` integers, not increasing.

    uniform: multiples of train_timesteps // steps from 0 (DDIM's "uniform", diffusers' "leading").
    trailing: from the last one down in steps of train_timesteps / steps (Lin et al. 2024, Table 2, as diffusers rounds
        it).
    quadratic: int(linspace(0, sqrt(0.8 train_timesteps), steps)^2) (DDIM's "quad", Q-Diffusion's CIFAR-10).
        With many steps, small timesteps repeat; those steps are skipped (t' = t).
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

    prediction: what the network outputs, one of `prediction.KINDS`. eta: scale of the noise that a step adds, for
        samplers that can add noise.
    clip_sample: clamp the predicted image to [-1, 1] at every step.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    eta: float = 0.0
    clip_sample: bool = False
    prediction: str = "epsilon"

    memories = 0  # number of tensors in the solver's memory
    needs_signal = False  # whether it cannot start from pure noise, abar = 0

    @classmethod
    def build(
        cls, alphas_cumprod: Tensor, sampler: Any, prediction: str = "epsilon", final_alpha: float = 1.0
    ) -> "Walk":
        """From abar of every training timestep (float [train_timesteps]) and a config's `sampler` section.

        Raises: RequestError for a solver with memory on timesteps that repeat.
        """
        timesteps = spaced_timesteps(len(alphas_cumprod), sampler.steps, sampler.spacing)
        if cls.memories and len(set(timesteps)) < len(timesteps):
            raise RequestError(
                f"model.sampler.spacing: got {sampler.spacing}, which repeats timesteps in {sampler.steps} steps, and "
                f"model.sampler.name={sampler.name} uses the previous step, allowed: uniform, trailing; type "
                "model.sampler.spacing=trailing"
            )
        alphas = [float(alphas_cumprod[t]) for t in timesteps] + [final_alpha]
        return cls(tuple(timesteps), tuple(alphas), sampler.eta, sampler.clip_sample, prediction)

    def __len__(self) -> int:
        return len(self.timesteps)

    # what a sampler defines --------------------------------------------------------------------------------
    def start(self, noise: Tensor) -> State:
        """The state before the first step, from standard normal noise [N, C, H, W]."""
        return State(noise, tuple(noise.new_zeros(noise.shape) for _ in range(self.memories)))

    def network_input(self, i: int, x: Tensor) -> Tensor:
        """The network's input at step i, for the state's x."""
        return x

    def step(self, i: int, state: State, output: Tensor, z: Tensor | None = None) -> State:
        """The state after step i; output: the network's output at this state; z: standard normal noise, required if
        `noise_scale(i)` is positive.
        """
        raise NotImplementedError  # every sampler's own

    def noise_scale(self, i: int) -> float:
        """Standard deviation of the noise that step i adds."""
        return 0.0

    def memory_weights(self, i: int) -> tuple[float, ...]:
        """The weight of each memory tensor in the x that step i produces: d x_{i+1} / d memory, one number each."""
        return (0.0,) * self.memories

    # derived from that ------------------------------------------------------------------------------------------
    def image_and_noise(self, i: int, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 (clamped if `clip_sample`) and eps at step i, for x = sqrt(abar) x_0 + sqrt(1 - abar) eps."""
        x0, eps = image_and_noise(self.prediction, output, x, self.alphas[i])
        return x0.clamp(-1, 1) if self.clip_sample else x0, eps

    def with_noise(self, i: int, x: Tensor, z: Tensor | None) -> State:
        """The state after step i from its deterministic part x and its standard normal noise z."""
        sigma = self.noise_scale(i)
        if sigma == 0:
            return State(x)
        assert z is not None, f"step {i} adds noise"
        return State(x + sigma * z)

    def output_weight(self, i: int) -> float:
        """b of step i: d x_{i+1} / d output, one number, since a step is linear in the output (but for `clip_sample`,
        which is left out).
        """
        zero = torch.zeros((), dtype=torch.float64)
        state, unclipped = State(zero, (zero,) * self.memories), replace(self, clip_sample=False)
        at_one, at_zero = (unclipped.step(i, state, zero + output, zero).x for output in (1, 0))
        return float(at_one - at_zero)

    def is_skipped(self, i: int) -> bool:
        """Whether step i is skipped because it ends at the timestep where it starts (t' = t)."""
        return self.alphas[i] == self.alphas[i + 1]

    def groups(self, group_size: int) -> list[range]:
        """The walk divided into consecutive groups of `group_size` steps, noise to image; the last may be shorter."""
        return [range(i, min(i + group_size, len(self))) for i in range(0, len(self), group_size)]

    def active(self, steps: Sequence[int]) -> list[int]:
        """Those of `steps` that are not skipped."""
        return [i for i in steps if not self.is_skipped(i)]
