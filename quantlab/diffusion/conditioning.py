"""What a network is called with besides x and t, and how walks are guided by it.

A walk has a *condition*, a few small tensors: the class of its image, the number of its prompt. What the network is
called with is made of it, so that a thousand walks with ten prompts hold ten embeddings.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Condition = Mapping[str, Tensor]  # of N walks: tensors [N, ...] by name


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of walks.

    scale: g; 1 is none. batched: both outputs from one pass. channels: of the output, how many are guided, the others
    being those of the condition; None: all.
    """

    scale: float = 1.0
    batched: bool = True
    channels: int | None = None


class Conditioning:
    """Base of what conditions a network."""

    guidance: Guidance

    def draw(self, count: int, seed: int) -> Condition:
        """The condition of `count` walks, on the CPU, drawn by `seed`."""
        raise NotImplementedError  # every kind's own

    def null(self) -> Condition:
        """The unconditional input of guidance, tensors [1, ...]. Asked only where walks are guided."""
        raise NotImplementedError  # every kind's own

    def arguments(self, condition: Condition) -> Mapping[str, Any]:
        """What the network is called with for these walks, on the condition's device: keyword arguments of N rows."""
        return condition

    def prepare(self, cache: Any, device: torch.device | str) -> None:
        """Make what `arguments` needs, or fetch it from `cache` (`quantlab.run.cache.Cache`); called before walks."""

    def facts(self) -> dict[str, Any]:
        """All that shapes the walks of a given condition, as plain data."""
        raise NotImplementedError  # every kind's own


@dataclass(frozen=True)
class Classes(Conditioning):
    """Class conditioning of a network: how many classes, the index of the null class (None: there is none), and how
    walks are guided.
    """

    count: int
    null_class: int | None
    guidance: Guidance = Guidance()
    # share of training images whose class is replaced by the null class (Ho and Salimans 2022, Alg. 1: p_uncond)
    dropout: float = 0.1

    def draw(self, count: int, seed: int) -> Condition:
        """Classes drawn uniformly."""
        generator = torch.Generator().manual_seed(seed)
        return {"class_labels": torch.randint(self.count, (count,), generator=generator)}

    def null(self) -> Condition:
        return {"class_labels": torch.tensor([self.null_class])}

    def of_training(self, labels: Tensor, drops: bool) -> Condition:
        """The condition of training images with these labels, int64 [N]; drops: a share of them, for guidance."""
        if drops and self.null_class is not None:
            dropped = torch.rand(len(labels), device=labels.device) < self.dropout
            labels = torch.where(dropped, self.null_class, labels)
        return {"class_labels": labels}

    def facts(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
