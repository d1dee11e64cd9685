"""How far a quantized walk strays from the full-precision one that starts from the same noise."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.diffusion.rollout import Network, Schedule, network_step, walk
from quantlab.diffusion.trajectories import Trajectories


@dataclass
class WalkComparison:
    """accumulated_error, step_error: mean squared error per pixel after each of the T steps, float lists [T].

    accumulated: the quantized network walks on its own states. step: each step alone, from the full-precision state.
    states: {steps done: [N, C, H, W]} of the quantized walk at the steps asked for; T is always among them.
    """

    accumulated_error: list[float]
    step_error: list[float]
    states: dict[int, Tensor]

    @property
    def images(self) -> Tensor:
        return self.states[max(self.states)]


@torch.no_grad()
def compare_walks(
    network: Network, schedule: Schedule, reference: Trajectories, batch_size: int, step_error_samples: int,
    keep: Sequence[int] = (), progress: Callable[[Iterable], Iterable] = iter, device: torch.device | str = "cpu",
) -> WalkComparison:
    """Walk the quantized `network` from the noise of `reference` and compare state by state.

    keep: numbers of steps done whose states are returned. The error of single steps is measured on the first
    `step_error_samples` trajectories, since it costs a second evaluation of every step.
    """
    total, count = len(schedule), len(reference)
    accumulated, single = torch.zeros(total, dtype=torch.float64), torch.zeros(total, dtype=torch.float64)
    kept = {done: torch.empty_like(reference.states[0]) for done in {*keep, total}}
    for first in progress(range(0, count, batch_size)):
        rows = slice(first, min(first + batch_size, count))
        noise = None if reference.noise is None else reference.noise[:, rows].to(device)
        exact = reference.states[:, rows].to(device)
        for i, x in enumerate(walk(network, schedule, exact[0], noise)):
            accumulated[i] += (x - exact[i + 1]).square().double().flatten(1).mean(1).sum().item() / count
            if i + 1 in kept:
                kept[i + 1][rows] = x.cpu()
        measured = min(max(step_error_samples - first, 0), rows.stop - rows.start)
        if measured == 0:
            continue
        for i in range(total):
            z = None if noise is None else noise[i, :measured]
            x = network_step(network, schedule, i, exact[i, :measured], z)
            error = (x - exact[i + 1, :measured]).square().double().flatten(1).mean(1).sum().item()
            single[i] += error / min(step_error_samples, count)
    return WalkComparison(accumulated.tolist(), single.tolist(), kept)
