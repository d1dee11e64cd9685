"""How far a quantized network is from full precision at the ends of groups of denoising steps."""

from collections.abc import Sequence

import torch

from quantlab.diffusion.rollout import Conditional, network_step
from quantlab.diffusion.trajectories import Trajectories

ROWS = 64


@torch.no_grad()
def group_errors(
    conditional: Conditional,
    trajectories: Trajectories,
    groups: Sequence[range],
    device: torch.device | str,
    batch_size: int,
) -> dict[range, float]:
    """Mean squared error per pixel at the end of each group, walked from its full-precision start with the guided
    network `conditional`, on the first 64 trajectories, `batch_size` at a time.

    The errors of the calibrated ranges scale the training loss: a loss of 1 is the error after calibration alone.
    """
    sampler, count = trajectories.sampler, min(ROWS, len(trajectories))
    errors = dict.fromkeys(groups, 0.0)
    for rows in trajectories.batches(count, batch_size):
        network, noise = conditional(trajectories.condition_of(rows, device)), trajectories.noise_of(rows, device)
        for steps in groups:
            state = trajectories.state(steps.start, rows).on(device)
            for i in steps:
                state = network_step(network, sampler, i, state, noise(i))
            error = (state.x - trajectories.state(steps.stop, rows).x.to(device)).square().mean()
            errors[steps] += float(error) * (len(state.x) / count)
    return errors


def relative_error(before: dict[range, float], now: dict[range, float]) -> float:
    """Errors `now` relative to those `before`, averaged over groups: 1 means no gain."""
    ratios = [now[steps] / error for steps, error in before.items() if error > 0]
    return sum(ratios) / max(len(ratios), 1)
