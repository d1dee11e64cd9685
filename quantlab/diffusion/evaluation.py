"""How far a quantized walk strays from the full-precision one that starts from the same noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.diffusion.rollout import Conditional, network_step, walk
from quantlab.diffusion.trajectories import Trajectories


@dataclass
class BatchComparison:
    """accumulated_error, step_error: what these walks add to the mean squared error per pixel after each of the T
    steps, float64 [T]; summed over all batches they are the errors.

    accumulated: the quantized network continues from its own states. step: each step by itself, from the full-precision
    state.
    states: {steps done: x [n, C, H, W]} of the quantized walks at the requested steps, T always included.
    """

    accumulated_error: Tensor
    step_error: Tensor
    states: dict[int, Tensor]

    @property
    def images(self) -> Tensor:
        return self.states[max(self.states)]


@torch.no_grad()
def compare_walks(
    conditional: Conditional,
    reference: Trajectories,
    rows: slice,
    error_samples: int,
    keep: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> BatchComparison:
    """Walk the quantized network from the noise of the walks `rows` of `reference` and compare state by state.

    keep: numbers of completed steps whose x is returned. Both errors are means over the first `error_samples`
    trajectories, all of whose states must have been kept.
    """
    sampler, count = reference.sampler, len(reference)
    total, compared = len(sampler), min(error_samples, count)
    accumulated, single = torch.zeros(total, dtype=torch.float64), torch.zeros(total, dtype=torch.float64)
    first, states = rows.start, {}
    measured = slice(first, min(rows.stop, compared))
    number = max(measured.stop - first, 0)

    def squared(x: Tensor, y: Tensor) -> float:
        return (x - y).square().double().flatten(1).mean(1).sum().item() / compared

    network, noise = conditional(reference.condition_of(rows, device)), reference.noise_of(rows, device)
    for i, state in enumerate(walk(network, sampler, reference.state(0, rows).on(device), noise)):
        if number:
            accumulated[i] = squared(state.x[:number], reference.state(i + 1, measured).x.to(device))
        if i + 1 in (*keep, total):
            states[i + 1] = state.x.cpu()
    if number:
        network, noise = conditional(reference.condition_of(measured, device)), reference.noise_of(measured, device)
        for i in range(total):
            x = network_step(network, sampler, i, reference.state(i, measured).on(device), noise(i)).x
            single[i] = squared(x, reference.state(i + 1, measured).x.to(device))
    return BatchComparison(accumulated, single, states)
