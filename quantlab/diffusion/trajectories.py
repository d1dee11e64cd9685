"""Full-precision walks, computed once: AccuQuant's calibration set and the reference of every evaluation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from quantlab.diffusion.rollout import Network, Schedule, seeded_normal, walk


@dataclass
class Trajectories:
    """States of N walks over T steps. states: float32 [T + 1, N, C, H, W], states[0] the noise, states[T] the images.

    noise: [T, N, C, H, W], what each step added, or None where eta = 0 (it is drawn from the seed, never stored).
    """

    states: Tensor
    noise: Tensor | None

    @property
    def images(self) -> Tensor:
        return self.states[-1]

    def __len__(self) -> int:
        return self.states.shape[1]


def step_noise(schedule: Schedule, shape: tuple[int, ...], seed: int) -> Tensor | None:
    """z of every step for states of `shape` [N, C, H, W]: [T, N, C, H, W], or None where eta = 0."""
    if schedule.eta == 0:
        return None
    return torch.stack([seeded_normal(shape, seed, 1 + i) for i in range(len(schedule))])


@torch.no_grad()
def compute_states(
    network: Network, schedule: Schedule, shape: tuple[int, ...], seed: int, batch_size: int,
    progress: Callable[[Iterable], Iterable] = iter, device: torch.device | str = "cpu",
) -> Tensor:
    """Walk N trajectories from seeded noise; shape = [N, C, H, W]. Returns float32 [T + 1, N, C, H, W] on the CPU."""
    start = seeded_normal(shape, seed, 0)
    noise = step_noise(schedule, shape, seed)
    states = torch.empty(len(schedule) + 1, *shape)
    states[0] = start
    for first in progress(range(0, shape[0], batch_size)):
        rows = slice(first, first + batch_size)
        z = None if noise is None else noise[:, rows].to(device)
        for i, x in enumerate(walk(network, schedule, start[rows].to(device), z)):
            states[i + 1, rows] = x.cpu()
    return states


@torch.no_grad()
def compute_images(
    network: Network, schedule: Schedule, shape: tuple[int, ...], seed: int, batch_size: int,
    progress: Callable[[Iterable], Iterable] = iter, device: torch.device | str = "cpu",
) -> Tensor:
    """The images that `compute_states` ends in, bit for bit, without the states on the way: float32 [N, C, H, W] on the CPU."""
    start, noise = seeded_normal(shape, seed, 0), step_noise(schedule, shape, seed)
    batches = []
    for first in progress(range(0, shape[0], batch_size)):
        rows = slice(first, first + batch_size)
        z = None if noise is None else noise[:, rows].to(device)
        *_, x = walk(network, schedule, start[rows].to(device), z)
        batches.append(x.cpu())
    return torch.cat(batches)


class GroupDataset(Dataset):
    """Trajectories as calibration data: an item is (denoising steps, trajectory), a batch is several trajectories at the same steps.

    `__getitems__` takes such pairs and returns {"steps": range, "start": [N, C, H, W] (the full-precision state in which those
    steps begin), "end": [N, C, H, W] (the one in which they end), "noise": [M, N, C, H, W] or None, "trajectories": int64 [N]}.
    """

    def __init__(self, trajectories: Trajectories):
        self.trajectories = trajectories

    def __len__(self) -> int:
        return len(self.trajectories)

    def __getitems__(self, pairs: list[tuple[range, int]]) -> dict:
        steps, rows = pairs[0][0], torch.tensor([trajectory for _, trajectory in pairs])
        states, noise = self.trajectories.states, self.trajectories.noise
        return {
            "steps": steps,
            "start": states[steps.start, rows],
            "end": states[steps.stop, rows],
            "noise": None if noise is None else noise[steps.start : steps.stop][:, rows],
            "trajectories": rows,
        }
