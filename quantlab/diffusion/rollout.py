"""Walks: a network and a sampler applied step by step, and the noise that walks start from."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantlab.diffusion.conditioning import Condition
from quantlab.diffusion.samplers import State, Walk

# (x [N, C, H, W], timestep, index of the step in the walk) -> its output
Network = Callable[[Tensor, float, int], Tensor]
Progress = Callable[[Iterable[Any]], Iterable[Any]]  # the same items, with a progress bar
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
    return torch.randn(tuple(shape), generator=_generator(*seed))


class SeededNormal:
    """The rows of `seeded_normal(shape, *seed)`, the same bits, in the memory of those that are asked for.

    torch draws a tensor in blocks of 16 numbers, and where they do not fill it the last 16 once more: rows that are
    drawn 16 at a time, the last ones together, are those of the whole.
    """

    BLOCK = 16

    def __init__(self, shape: Sequence[int], *seed: int):
        self.shape, self.seed = tuple(shape), seed
        self._begin()

    def _begin(self) -> None:
        self.generator, self.rows = _generator(*self.seed), torch.empty(0, *self.shape[1:])
        self.first, self.end = 0, 0  # of `rows`

    def __getitem__(self, wanted: slice) -> Tensor:
        """float32 [rows, ...]. Cheap where each is asked for after the one before it."""
        first, last, _ = wanted.indices(self.shape[0])
        if first < self.first:
            self._begin()
        kept = []
        while True:
            if self.end > first:
                kept.append(self.rows[max(first - self.first, 0) : last - self.first])
            if self.end >= last:
                return torch.cat(kept) if kept else self.rows[:0]
            self._draw()

    def _draw(self) -> None:
        count, numbers = self.shape[0], math.prod(self.shape[1:])
        self.first, self.end = self.end, min(self.end + self.BLOCK, count)
        if (count - self.end) * numbers < self.BLOCK:
            self.end = count
        self.rows = torch.randn((self.end - self.first, *self.shape[1:]), generator=self.generator)


def _generator(*seed: int) -> torch.Generator:
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(state)
