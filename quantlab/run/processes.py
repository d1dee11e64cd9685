"""The processes of a run, started by `torchrun` on one machine: what each of them does, and what they tell each other.

With one process everything here is trivial, so that the code for one and for several is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """rank: this process, of `count`; device: that it computes on, where tensors meet."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of `items` that are this process's: every `count`-th."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors of one shape, on this one's device."""
        if self.count == 1:
            return tensor
        total = tensor.detach().to(self.device).clone()
        distributed.all_reduce(total)
        return total.to(tensor.device)

    def of_first(self, ask: Callable[[], Any]) -> Any:
        """What `ask` says in the first process; it is asked there alone."""
        if self.count == 1:
            return ask()
        said = [ask() if self.is_first else None]
        distributed.broadcast_object_list(said, device=self.device)
        return said[0]


ALONE = Processes()
