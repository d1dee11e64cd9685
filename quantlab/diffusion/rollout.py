"""Walks: a network and a sampler, step after step; and the noise that they start from."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from quantlab.diffusion.samplers import State, Walk

# what a network is told beside x and t: tensors [N, ...] by their argument's name
Condition = Mapping[str, Tensor]
# (x [N, C, H, W], timestep, index of the step in the walk) -> its output
Network = Callable[[Tensor, int, int], Tensor]
Conditional = Callable[[Condition], Network]  # the network that is told a condition of N rows


def network_step(network: Network, sampler: Walk, i: int, state: State, z: Tensor | None = None) -> State:
    """Step i of the walk: one network evaluation, or none where the step goes nowhere. z [N, C, H, W]: as
    `Walk.step`.
    """
    if sampler.is_skipped(i):
        return state
    return sampler.step(i, state, network(sampler.network_input(i, state.x), sampler.timesteps[i], i), z)


def walk(
    network: Network,
    sampler: Walk,
    state: State,
    noise: Callable[[int], Tensor | None],
    steps: Sequence[int] | None = None,
) -> Iterator[State]:
    """The states after each of `steps` (default: all), starting from `state`; noise(i): z of step i, or None."""
    for i in range(len(sampler)) if steps is None else steps:
        state = network_step(network, sampler, i, state, noise(i))
        yield state


def no_noise(i: int) -> None:
    """Of a walk that adds none."""


def seeded_normal(shape: Sequence[int], *seed: int) -> Tensor:
    """Standard normal float32 tensor that depends only on `shape` and the integers `seed`; drawn on the CPU."""
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(state))
