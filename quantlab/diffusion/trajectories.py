"""Full-precision walks on disk, computed once: the calibration set of post-training methods and the reference of every
evaluation.

Each state is a memory-mapped file, so that walks may exceed memory; only requested states are kept.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from quantlab.diffusion.conditioning import Condition
from quantlab.diffusion.rollout import Conditional, Progress, network_step, seeded_normal, walk
from quantlab.diffusion.samplers import State, Walk
from quantlab.run.processes import ALONE, Processes

Rows = slice | Tensor


def _mapped(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # writes stay in memory


class Trajectories:
    """N walks over the T steps of `sampler`, in `folder` as written by `compute_walks`. State i precedes step i; state
    T is the end.

    condition: the network's condition for each walk, tensors [N, ...].
    """

    def __init__(self, folder: Path, sampler: Walk, condition: Condition):
        self.folder, self.sampler, self.condition = Path(folder), sampler, condition
        self.end = len(sampler)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, count: int, batch_size: int) -> list[slice]:
        """The first `count` walks, in batches."""
        count = min(count, len(self))
        return [slice(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]

    @property
    def images(self) -> Tensor:
        """x at the end: float32 [N, C, H, W]."""
        return _mapped(self.folder / f"x-{self.end}.npy")

    def state(self, i: int, rows: Rows = slice(None)) -> State:
        """State i of the walks in `rows`, float32 on the CPU. Raises: IndexError for indices that were not kept (slices
        are truncated).
        """
        memory = tuple(_mapped(self.folder / f"memory-{i}-{k}.npy")[rows] for k in range(self.sampler.memories))
        return State(_mapped(self.folder / f"x-{i}.npy")[rows], memory)

    def noise(self, i: int, rows: Rows = slice(None)) -> Tensor | None:
        """z of step i, float32 [N, C, H, W], or None where the step adds no noise."""
        return None if self.sampler.noise_scale(i) == 0 else _mapped(self.folder / f"z-{i}.npy")[rows]

    def noise_of(self, rows: Rows, device: torch.device | str) -> Callable[[int], Tensor | None]:
        """`noise` of those walks on `device`, by step: what `walk` asks for."""

        def noise(i: int) -> Tensor | None:
            z = self.noise(i, rows)
            return None if z is None else z.to(device)

        return noise

    def condition_of(self, rows: Rows = slice(None), device: torch.device | str = "cpu") -> Condition:
        """The condition of the walks in `rows`."""
        return {name: value[rows].to(device) for name, value in self.condition.items()}


@torch.no_grad()
def compute_walks(
    folder: Path,
    conditional: Conditional,
    sampler: Walk,
    condition: Condition,
    shape: Sequence[int],
    seed: int,
    kept: Sequence[int],
    batch_size: int,
    progress: Progress = iter,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
) -> None:
    """Walk N trajectories from seeded noise into `folder`; shape = [N, C, H, W].

    kept: for each of the T + 1 states, of how many walks (the first ones) it is kept. Noise is kept for every step and
    walk. processes: divide the batches; the files are the same bits.
    """

    def file(name: str, rows: int) -> np.memmap:
        path = folder / f"{name}.npy"
        if not processes.is_first:
            return np.lib.format.open_memmap(path, mode="r+")
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, *shape[1:]))

    if not processes.is_first:
        processes.wait()  # for the files

    states = [
        [file(name, rows) for name in (f"x-{i}", *(f"memory-{i}-{k}" for k in range(sampler.memories)))]
        for i, rows in enumerate(kept)
    ]
    noises = {i: file(f"z-{i}", shape[0]) for i in range(len(sampler)) if sampler.noise_scale(i) > 0}
    if processes.is_first:
        for i, noise in noises.items():
            noise[:] = seeded_normal(shape, seed, 1 + i).numpy()
            noise.flush()
        processes.wait()

    def keep(i: int, first: int, state: State) -> None:
        rows = slice(first, min(first + batch_size, kept[i]))
        for array, tensor in zip(states[i], (state.x, *state.memory)):
            array[rows] = tensor[: max(rows.stop - first, 0)].cpu().numpy()

    start = seeded_normal(shape, seed, 0)
    for first in progress(processes.share(range(0, shape[0], batch_size))):
        rows = slice(first, first + batch_size)
        network = conditional({name: value[rows].to(device) for name, value in condition.items()})
        state = sampler.start(start[rows].to(device))
        keep(0, first, state)
        for i in range(len(sampler)):
            z = torch.from_numpy(noises[i][rows]).to(device) if i in noises else None
            state = network_step(network, sampler, i, state, z)
            keep(i + 1, first, state)
    for array in [*(one for group in states for one in group), *noises.values()]:
        array.flush()


@torch.no_grad()
def compute_images(
    conditional: Conditional,
    sampler: Walk,
    condition: Condition,
    shape: Sequence[int],
    seed: int,
    batch_size: int,
    progress: Progress = iter,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The final images of `compute_walks`, bit for bit, without intermediate states: float32 [N, C, H, W] on the
    CPU.
    """
    start = seeded_normal(shape, seed, 0)
    noises = {i: seeded_normal(shape, seed, 1 + i) for i in range(len(sampler)) if sampler.noise_scale(i) > 0}
    batches = []
    for first in progress(range(0, shape[0], batch_size)):
        rows = slice(first, first + batch_size)
        network = conditional({name: value[rows].to(device) for name, value in condition.items()})
        *_, state = walk(
            network,
            sampler,
            sampler.start(start[rows].to(device)),
            lambda i: noises[i][rows].to(device) if i in noises else None,
        )
        batches.append(state.x.cpu())
    return torch.cat(batches)


class GroupDataset(Dataset[Any]):
    """Trajectories as calibration data: an item is (denoising steps, trajectory); a batch is several trajectories over
    the same steps.

    `__getitems__` takes such pairs and returns {"steps": range, "start": [N, C, H, W] (x of the full-precision state
    before these steps), "memory": list of the same shape (the solver's memory there), "end": [N, C, H, W] (x after
    these steps), "noise": for each step [N, C, H, W] or None, "condition": dict of tensors [N, ...], "trajectories":
    int64 [N]}.
    """

    def __init__(self, trajectories: Trajectories):
        self.trajectories = trajectories

    def __len__(self) -> int:
        return len(self.trajectories)

    def __getitems__(self, pairs: list[tuple[range, int]]) -> dict[str, Any]:
        steps, rows = pairs[0][0], torch.tensor([trajectory for _, trajectory in pairs])
        start, walks = self.trajectories.state(steps.start, rows), self.trajectories
        return {
            "steps": steps,
            "start": start.x,
            "memory": list(start.memory),
            "end": walks.state(steps.stop, rows).x,
            "noise": [walks.noise(i, rows) for i in steps],
            "condition": dict(walks.condition_of(rows)),
            "trajectories": rows,
        }
