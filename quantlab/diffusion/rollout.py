"""Walks: a network and a sampler applied step by step, and the noise that walks start from."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from quantlab.diffusion.conditioning import Condition
from quantlab.diffusion.samplers import State, Walk

# (x [N, C, H, W], timestep, index of the step in the walk) -> its output
Network = Callable[[Tensor, float, int], Tensor]
Progress = Callable[[Iterable[int]], Iterable[int]]  # the same numbers, with a progress bar
Conditional = Callable[[Condition], Network]  # a condition of N rows -> the network with that condition


def network_step(network: Network, sampler: Walk, i: int, state: State, z: Tensor | None = None) -> State:
    """Step i of the walk: one network evaluation, or none if the step is skipped. z [N, C, H, W]: as in `Walk.step`."""
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


def seeded_normal(shape: Sequence[int], *seed: int) -> Tensor:
    """A standard normal float32 tensor that depends only on `shape` and the integers `seed`; drawn on the CPU."""
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(state))
