"""Full-precision walks on disk, computed once: the calibration set of post-training methods and the reference of every
evaluation.

Each state is a memory-mapped file, so that walks may exceed memory; only requested states are kept.
"""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from quantlab.diffusion.conditioning import Condition
from quantlab.diffusion.rollout import Conditional, Progress, SeededNormal, network_step, walk
from quantlab.diffusion.samplers import State, Walk
from quantlab.run.batch_files import batches_of
from quantlab.run.processes import ALONE, Processes

Rows = slice | Tensor
DONE = "done.npy"  # uint8 [N]: which walks are whole in the files beside it


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
    walk. processes: divide the batches; the files are the same bits. What a call that was killed left in `folder` is
    gone on with, batch by batch.
    """
    names = [[f"x-{i}", *(f"memory-{i}-{k}" for k in range(sampler.memories))] for i in range(len(sampler) + 1)]
    sizes = {name: kept[i] for i, group in enumerate(names) for name in group}
    noisy = [i for i in range(len(sampler)) if sampler.noise_scale(i) > 0]
    sizes |= {f"z-{i}": shape[0] for i in noisy}
    batches = batches_of(shape[0], batch_size)
    files = {name: folder / f"{name}.npy" for name in sizes}
    if processes.is_first and not _are_there(folder / DONE, *files.values()):
        arrays = {name: _memmap(files[name], (rows, *shape[1:])) for name, rows in sizes.items()}
        for i in noisy:
            noise = SeededNormal(shape, seed, 1 + i)
            for rows in batches:
                arrays[f"z-{i}"][rows] = noise[rows].numpy()
            arrays[f"z-{i}"].flush()
        np.save(folder / "begun.npy", np.zeros(shape[0], np.uint8))
        (folder / "begun.npy").replace(folder / DONE)  # at one stroke: from here on there is something to go on with
    processes.wait()  # for the files
    done = np.lib.format.open_memmap(folder / DONE, mode="r+")
    arrays = {name: np.lib.format.open_memmap(file, mode="r+") for name, file in files.items()}

    def keep(i: int, rows: slice, state: State) -> None:
        number = max(min(rows.stop, kept[i]) - rows.start, 0)
        for name, tensor in zip(names[i], (state.x, *state.memory)):
            arrays[name][rows.start : rows.start + number] = tensor[:number].cpu().numpy()

    start = SeededNormal(shape, seed, 0)
    for rows in progress([rows for rows in processes.share(batches) if not done[rows].all()]):
        network = conditional({name: value[rows].to(device) for name, value in condition.items()})
        state = sampler.start(start[rows].to(device))
        keep(0, rows, state)
        for i in range(len(sampler)):
            z = torch.from_numpy(arrays[f"z-{i}"][rows]).to(device) if i in noisy else None
            state = network_step(network, sampler, i, state, z)
            keep(i + 1, rows, state)
        for array in arrays.values():
            array.flush()
        done[rows] = 1
        done.flush()


def _memmap(path: Path, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def _are_there(*files: Path) -> bool:
    """Whether each is an array, as long as it says."""
    try:
        return all(np.load(file, mmap_mode="r") is not None for file in files)
    except (OSError, ValueError, EOFError):
        return False


class WalkEnds:
    """The final images of `compute_walks`, bit for bit, batch by batch, without intermediate states."""

    def __init__(
        self,
        conditional: Conditional,
        sampler: Walk,
        condition: Condition,
        shape: Sequence[int],
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self.conditional, self.sampler, self.condition, self.device = conditional, sampler, condition, device
        self.start = SeededNormal(shape, seed, 0)
        steps = (i for i in range(len(sampler)) if sampler.noise_scale(i) > 0)
        self.noises = {i: SeededNormal(shape, seed, 1 + i) for i in steps}

    @torch.no_grad()
    def __getitem__(self, rows: slice) -> Tensor:
        """float32 [rows, C, H, W] on the CPU. Cheap where each is asked for after the one before it."""

        def noise(i: int) -> Tensor | None:
            return self.noises[i][rows].to(self.device) if i in self.noises else None

        network = self.conditional({name: value[rows].to(self.device) for name, value in self.condition.items()})
        states = walk(network, self.sampler, self.sampler.start(self.start[rows].to(self.device)), noise)
        (last,) = deque(states, maxlen=1)
        return last.x.cpu()


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
