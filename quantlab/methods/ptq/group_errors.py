"""How far a quantized network is from full precision at the ends of groups of denoising steps."""

from collections.abc import Sequence

import torch

from quantlab.diffusion.rollout import Conditional, network_step
from quantlab.diffusion.trajectories import Trajectories


@torch.no_grad()
def group_errors(
    conditional: Conditional,
    trajectories: Trajectories,
    groups: Sequence[range],
    device: torch.device | str,
    rows: int = 64,
) -> dict[range, float]:
    """Mean squared error per pixel at the end of each group, walked from its full-precision start with the guided
    network `conditional`, on the first `rows` trajectories.

    The errors of the calibrated ranges scale the training loss: a loss of 1 is the error after calibration alone.
    """
    chosen, sampler = slice(rows), trajectories.sampler
    network = conditional(trajectories.condition_of(chosen, device))
    errors = {}
    for steps in groups:
        state = trajectories.state(steps.start, chosen).on(device)
        for i in steps:
            z = trajectories.noise(i, chosen)
            state = network_step(network, sampler, i, state, None if z is None else z.to(device))
        errors[steps] = float((state.x - trajectories.state(steps.stop, chosen).x.to(device)).square().mean())
    return errors


def relative_error(before: dict[range, float], now: dict[range, float]) -> float:
    """Errors `now` relative to those `before`, averaged over groups: 1 means no gain."""
    ratios = [now[steps] / error for steps, error in before.items() if error > 0]
    return sum(ratios) / max(len(ratios), 1)
