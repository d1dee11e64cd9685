"""How far a quantized walk strays from the full-precision one that starts from the same noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.diffusion.rollout import Conditional, Progress, network_step, walk
from quantlab.diffusion.trajectories import Trajectories
from quantlab.run.processes import ALONE, Processes


@dataclass
class WalkComparison:
    """accumulated_error, step_error: mean squared error per pixel after each of the T steps, float lists [T].

    accumulated: the quantized network continues from its own states. step: each step by itself, from the full-precision
    state.
    states: {steps done: x [N, C, H, W]} of the quantized walk at the requested steps, T always included.
    """

    accumulated_error: list[float]
    step_error: list[float]
    states: dict[int, Tensor]

    @property
    def images(self) -> Tensor:
        return self.states[max(self.states)]


@torch.no_grad()
def compare_walks(
    conditional: Conditional,
    reference: Trajectories,
    batch_size: int,
    error_samples: int,
    keep: Sequence[int] = (),
    progress: Progress = iter,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
) -> WalkComparison:
    """Walk the quantized network from the noise of `reference` and compare state by state.

    keep: numbers of completed steps whose x is returned. Both errors are measured on the first `error_samples`
    trajectories, all of whose states must have been kept. processes: divide the batches; the errors are the same up to
    the order of sums, the states the same bits.
    """
    sampler, count = reference.sampler, len(reference)
    total, compared = len(sampler), min(error_samples, count)
    accumulated, single = torch.zeros(total, dtype=torch.float64), torch.zeros(total, dtype=torch.float64)
    kept = {done: torch.zeros_like(reference.images) for done in {*keep, total}}

    def squared(x: Tensor, y: Tensor) -> float:
        return (x - y).square().double().flatten(1).mean(1).sum().item() / compared

    for first in progress(processes.share(range(0, count, batch_size))):
        rows = slice(first, min(first + batch_size, count))
        measured = slice(first, min(rows.stop, compared))
        number = max(measured.stop - first, 0)
        network = conditional(reference.condition_of(rows, device))
        noise = reference.noise_of(rows, device)
        for i, state in enumerate(walk(network, sampler, reference.state(0, rows).on(device), noise)):
            if number:
                accumulated[i] += squared(state.x[:number], reference.state(i + 1, measured).x.to(device))
            if i + 1 in kept:
                kept[i + 1][rows] = state.x.cpu()
        if number:
            network, noise = conditional(reference.condition_of(measured, device)), reference.noise_of(measured, device)
            for i in range(total):
                x = network_step(network, sampler, i, reference.state(i, measured).on(device), noise(i)).x
                single[i] += squared(x, reference.state(i + 1, measured).x.to(device))
    accumulated, single = processes.sum(accumulated), processes.sum(single)
    return WalkComparison(accumulated.tolist(), single.tolist(), {done: processes.sum(x) for done, x in kept.items()})
