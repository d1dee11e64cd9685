"""A fair sample of values that come call by call, and the range of them all."""

import numpy as np
import torch
from torch import Tensor

MOST_HYPERGEOMETRIC = 10**9


class Reservoir:
    """Holds `capacity` of the values that `add` was given, every one of them as likely as any other, however many came
    in which call and however they lie in memory; all of them while they are no more. The draw is the same in every run.

    A strided sample would not do: a stride that shares a factor with a tensor's width or its channels sees some of them
    only.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.values = torch.empty(0)  # float [capacity] or fewer
        self.seen = 0
        self.low, self.high = torch.zeros(()), torch.zeros(())  # of all values, widened to contain zero
        self.random = np.random.default_rng(0)

    def add(self, x: Tensor) -> None:
        """Take part in the draw with every value of x (float, any shape)."""
        new = x.detach().flatten()
        if not len(new):
            return
        low, high = torch.aminmax(new)
        if not self.seen:
            self.values, self.low, self.high = new[:0], low.clamp(max=0), high.clamp(min=0)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        # How many of a fair sample of all come from this call is hypergeometric (of as many as numpy does not take, of
        # which a sample is next to nothing, binomial); which ones, and which old ones stay, is uniform.
        size = min(self.capacity, self.seen + len(new))
        if max(len(new), self.seen) < MOST_HYPERGEOMETRIC:
            drawn = int(self.random.hypergeometric(len(new), self.seen, size))
        else:
            drawn = int(self.random.binomial(size, len(new) / (self.seen + len(new))))
            drawn = min(max(drawn, size - len(self.values)), len(new))
        self.values = torch.cat([self._some(self.values, size - drawn), self._some(new, drawn)])
        self.seen += len(new)

    def _some(self, values: Tensor, count: int) -> Tensor:
        if count == len(values):
            return values.clone()
        chosen = self.random.choice(len(values), count, replace=False, shuffle=False)
        return values[torch.from_numpy(chosen).to(values.device)]

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of all, widened to contain zero: two tensors [1]."""
        return self.low[None], self.high[None]
