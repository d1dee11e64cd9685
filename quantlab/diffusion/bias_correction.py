"""The mean error of a quantized walk, taken out again.

Noisy updates leave a shift that all images share, small beside the error of one image and large beside that of their
mean, which is what a Frechet distance sees. Nagel et al. (ICCV 2019, Sec. 4.2) correct the mean output of a layer;
here it is that of a whole group of denoising steps, on the quantized network's own states. At the end of each group

    d = mean over the calibration walks of (x~ - x),

per channel or per pixel, in which no single walk weighs much (`shared_error`). x~ is the quantized walk's state, which
carries the corrections of the groups before, and x that of full precision. d is subtracted as a bias of the network's
output in the group's last step, -d / b with b = dx~ / d output of the sampler's step: exact, since a step is linear in
the output (but where clip_sample clamps). One walk without gradients; nothing else of the network changes.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from quantlab.diffusion.rollout import Conditional, network_step
from quantlab.diffusion.samplers import State
from quantlab.diffusion.trajectories import Trajectories
from quantlab.errors import RunError

# What is corrected alike, of errors [N, C, H, W]
ALIKE: dict[str, Callable[[Tensor], Tensor]] = {
    "channel": lambda errors: errors.mean((2, 3), keepdim=True),
    "pixel": lambda errors: errors,
}


@torch.no_grad()
def output_biases(
    conditional: Conditional,
    trajectories: Trajectories,
    groups: list[range],
    bias_correction: str,
    batch_size: int,
    progress: Callable[[Iterable[range]], Iterable[range]] = iter,
    device: torch.device | str = "cpu",
) -> dict[int, Tensor]:
    """By the step at which each of `groups` ends, what is to be added to the output of the guided network `conditional`
    there: float32 [C, 1, 1] (channel) or [C, H, W] (pixel), on `device`.

    groups: of the walk's active steps, in order, together all of them.
    """
    sampler, count = trajectories.sampler, len(trajectories)
    batches = [slice(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]
    states = [trajectories.state(0, rows) for rows in batches]
    biases: dict[int, Tensor] = {}
    for steps in progress(groups):
        *before, last = sampler.active(steps)
        ends: list[tuple[State, Tensor, Tensor | None]] = []  # state before the last step, output there, its noise
        errors: list[Tensor] = []
        for rows, state in zip(batches, (state.on(device) for state in states)):
            network = conditional(trajectories.condition_of(rows, device))
            noise = trajectories.noise_of(rows, device)
            for i in before:
                state = network_step(network, sampler, i, state, noise(i))
            output = network(sampler.network_input(last, state.x), sampler.timesteps[last], last)
            z = noise(last)
            errors.append(sampler.step(last, state, output, z).x - trajectories.state(steps.stop, rows).x.to(device))
            ends.append((state, output, z))
        mean = shared_error(torch.cat(errors), bias_correction)
        biases[last] = (-mean / sampler.output_weight(last)).float().to(device)
        states = [sampler.step(last, state, output + biases[last], z).on("cpu") for state, output, z in ends]
    return biases


def shared_error(errors: Tensor, bias_correction: str) -> Tensor:
    """The mean over walks of `errors`, float [N, C, H, W]: float64 [C, 1, 1] (channel) or [C, H, W],
    on the CPU. Raises: RunError where no walk is finite.

    A walk weighs min(1, 2 median / r) with r the root of its mean square: a few walks that leave the data, as they do
    after block reconstruction or with calibrated ranges alone, would move everybody's image by their own error. Huber
    (1964) bounds the influence of an observation so; the bound of twice the median is our choice.
    """
    errors = errors.cpu().double()
    errors = errors[errors.flatten(1).isfinite().all(1)]
    if not len(errors):
        raise RunError("bias correction: every walk of the quantized model ends in NaN or infinity")
    size = errors.square().mean((1, 2, 3)).sqrt().clamp_min(1e-30)
    weight = (2 * size.median() / size).clamp(max=1).view(-1, 1, 1, 1)
    errors = ALIKE[bias_correction](errors)
    return (weight * errors).sum(0) / weight.sum()
