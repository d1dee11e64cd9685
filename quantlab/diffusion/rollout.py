"""One denoising step of DDIM, and walks of many.

With abar_t the cumulative alpha, t' < t the next timestep of the walk and eps the network's output (Song et al. 2021, Eq. 12):

    x0^   = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)                       (clamped to [-1, 1] if clip_sample)
    sigma = eta sqrt((1 - abar_t') / (1 - abar_t)) sqrt(1 - abar_t / abar_t')
    x_t'  = sqrt(abar_t') x0^ + sqrt(1 - abar_t' - sigma^2) eps + sigma z                                            (1)

Without clipping this is x_t' = a_t x_t + b_t eps + sigma z with a_t = sqrt(abar_t' / abar_t). It is written with torch
operations, so autograd gives its derivative, clipping included. diffusers' `DDIMScheduler.step` is the same map where both
apply (a test holds them together), but it knows only equally spaced timesteps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Network = Callable[[Tensor, int, int], Tensor]  # (x [N, C, H, W], timestep, index of the step in the walk) -> eps


def spaced_timesteps(train_timesteps: int, steps: int, spacing: str) -> list[int]:
    """The walk's timesteps from noise to image, `steps` integers, not increasing.

    uniform: multiples of train_timesteps // steps from 0 (DDIM's "uniform", diffusers' "leading").
    quadratic: int(linspace(0, sqrt(0.8 train_timesteps), steps)^2) (DDIM's "quad", Q-Diffusion's CIFAR-10). For many steps it
    repeats small timesteps; those steps go nowhere (t' = t).
    """
    if spacing == "uniform":
        ascending = [i * (train_timesteps // steps) for i in range(steps)]
    else:
        ascending = [int(root * root) for root in np.linspace(0, (0.8 * train_timesteps) ** 0.5, steps)]
    return ascending[::-1]


@dataclass(frozen=True)
class Schedule:
    """A walk: timesteps[i] is t of step i, alphas[i] its abar, alphas[i + 1] the abar it leads to (the last is 1)."""

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    eta: float
    clip_sample: bool

    @classmethod
    def build(cls, alphas_cumprod: Tensor, sampler, final_alpha: float = 1.0) -> "Schedule":
        """From abar of every training timestep (float [train_timesteps]) and a config's `sampler` section."""
        timesteps = spaced_timesteps(len(alphas_cumprod), sampler.steps, sampler.spacing)
        alphas = [float(alphas_cumprod[t]) for t in timesteps] + [final_alpha]
        return cls(tuple(timesteps), tuple(alphas), sampler.eta, sampler.clip_sample)

    def __len__(self) -> int:
        return len(self.timesteps)

    def goes_nowhere(self, i: int) -> bool:
        """Whether step i ends at the timestep it starts from (t' = t): then a = 1, b = sigma = 0, and it is skipped."""
        return self.alphas[i] == self.alphas[i + 1]

    def sigma(self, i: int) -> float:
        """Standard deviation of the noise that step i adds; 0 if eta = 0."""
        here, there = self.alphas[i], self.alphas[i + 1]
        return self.eta * ((1 - there) / (1 - here)) ** 0.5 * max(1 - here / there, 0.0) ** 0.5

    def groups(self, group_size: int) -> list[range]:
        """The walk cut into disjoint runs of `group_size` steps, noise to image; the last is shorter if it must be."""
        return [range(i, min(i + group_size, len(self))) for i in range(0, len(self), group_size)]

    def moving(self, steps: Sequence[int]) -> list[int]:
        """Those of `steps` that go somewhere."""
        return [i for i in steps if not self.goes_nowhere(i)]


def denoise(schedule: Schedule, i: int, x: Tensor, eps: Tensor, z: Tensor | None = None) -> Tensor:
    """x_t' of Eq. (1) for step i. x, eps, z: [N, C, H, W]; z, standard normal, is needed where eta > 0."""
    here, there, sigma = schedule.alphas[i], schedule.alphas[i + 1], schedule.sigma(i)
    x0 = (x - (1 - here) ** 0.5 * eps) / here**0.5
    if schedule.clip_sample:
        x0 = x0.clamp(-1, 1)
    x_next = there**0.5 * x0 + max(1 - there - sigma**2, 0.0) ** 0.5 * eps
    return x_next if sigma == 0 else x_next + sigma * z


def network_step(network: Network, schedule: Schedule, i: int, x: Tensor, z: Tensor | None = None) -> Tensor:
    """Step i of the walk from x [N, C, H, W]: one network evaluation, or none where the step goes nowhere."""
    if schedule.goes_nowhere(i):
        return x
    return denoise(schedule, i, x, network(x, schedule.timesteps[i], i), z)


def walk(
    network: Network, schedule: Schedule, x: Tensor, noise: Tensor | None = None, steps: Sequence[int] | None = None
) -> Iterator[Tensor]:
    """The states after each of `steps` (default: all), each [N, C, H, W], starting from x.

    noise: [T, N, C, H, W], z of every step of the whole walk; None if eta = 0.
    """
    for i in range(len(schedule)) if steps is None else steps:
        x = network_step(network, schedule, i, x, None if noise is None else noise[i])
        yield x


def seeded_normal(shape: Sequence[int], *seed: int) -> Tensor:
    """Standard normal float32 tensor that depends only on `shape` and the integers `seed`; drawn on the CPU."""
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(state))
