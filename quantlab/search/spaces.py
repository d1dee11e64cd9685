"""Search spaces: decisions, each with a few operations; a subnet is one operation per decision.

A new space defines the names of its decisions and operations, which operations are legal where, and their costs;
numbering, encoding, sampling, neighbours and complexity follow.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from math import prod
from operator import getitem
from typing import TYPE_CHECKING, Literal

from quantlab.errors import RequestError

if TYPE_CHECKING:  # imported by the command's help, which has to be fast
    import numpy as np

Subnet = tuple[int, ...]  # the operation of each decision, an edge of a cell or a layer of a chain
Measure = Literal["parameters", "flops"]
MEASURES: tuple[Measure, ...] = ("parameters", "flops")


class SearchSpace(ABC):
    """Base of all spaces. A subclass sets `name`, `decisions` and `operations`, and defines legal operations and
    costs.
    """

    name: str
    decisions: tuple[str, ...]  # names, in the order of a subnet's entries
    operations: tuple[str, ...]  # names, in the order of their numbers

    @abstractmethod
    def choices(self, decision: int) -> tuple[int, ...]:
        """The legal operations of a decision, ascending."""

    @abstractmethod
    def fixed_cost(self, measure: Measure) -> int:
        """Cost of the parts that every subnet has: stem, reductions, classifier."""

    @abstractmethod
    def cost(self, decision: int, operation: int, measure: Measure) -> int:
        """Complexity added by `operation` at `decision`."""

    @property
    def size(self) -> int:
        """Number of subnets."""
        return prod(map(len, self._legal))

    def sample(self, rng: "np.random.Generator") -> Subnet:
        """A subnet drawn uniformly."""
        legal = self._legal
        return tuple(map(getitem, legal, rng.integers([len(operations) for operations in legal])))

    def check(self, subnet: Subnet, key: str = "subnet") -> Subnet:
        """`subnet` itself. Raises RequestError, one line under the name `key`, for a subnet outside this space."""
        legal = self._legal
        if len(subnet) == len(legal) and all(operation in allowed for operation, allowed in zip(subnet, legal)):
            return tuple(subnet)
        nearest = [
            operation if operation in allowed else min(allowed, key=lambda other: abs(other - operation))
            for operation, allowed in zip(subnet, legal)
        ]
        nearest += [allowed[0] for allowed in legal[len(nearest) :]]
        if len(subnet) != len(legal):
            wrong = f"{len(subnet)} operations for {len(legal)} decisions"
        else:
            place = next(decision for decision, allowed in enumerate(legal) if subnet[decision] not in allowed)
            wrong = (
                f"operation {subnet[place]} at {self.decisions[place]}, where {', '.join(map(str, legal[place]))} are"
                " legal"
            )
        raise RequestError(
            f"{key}: got {'-'.join(map(str, subnet))} ({wrong}), {self._allowed}; type"
            f" {key}={'-'.join(map(str, nearest))}"
        )

    def encode(self, subnet: Subnet) -> str:
        """The subnet as users type it: `"3-3-3-1-2-3"`."""
        return "-".join(map(str, self.check(subnet)))

    def decode(self, text: str, key: str = "subnet") -> Subnet:
        """The inverse of `encode`. Raises RequestError, one line under the name `key`, for any other text."""
        try:
            subnet = tuple(int(part) for part in text.split("-"))
        except ValueError:
            raise RequestError(f"{key}: got '{text}', {self._allowed}; type {key}={self.example}") from None
        return self.check(subnet, key)

    @property
    def example(self) -> str:
        """An encoding for messages: the middle legal operation everywhere."""
        return self.encode(tuple(legal[len(legal) // 2] for legal in self._legal))

    @property
    def _allowed(self) -> str:
        operations = ", ".join(f"{number} {name}" for number, name in enumerate(self.operations))
        return f"allowed in {self.name}: {len(self.decisions)} operations ({operations}) joined by '-'"

    def index(self, subnet: Subnet) -> int:
        """The index of a subnet, 0 to size - 1: mixed radix, the first decision most significant."""
        number = 0
        for operation, legal in zip(self.check(subnet), self._legal):
            number = number * len(legal) + legal.index(operation)
        return number

    def subnet(self, index: int) -> Subnet:
        """The subnet of an index. Raises RequestError outside 0 to size - 1."""
        if not 0 <= index < self.size:
            nearest = min(max(index, 0), self.size - 1)
            raise RequestError(f"index: got {index}, allowed in {self.name}: 0 to {self.size - 1}; type {nearest}")
        reversed_operations = []
        for legal in reversed(self._legal):
            index, digit = divmod(index, len(legal))
            reversed_operations.append(legal[digit])
        return tuple(reversed(reversed_operations))

    def canonical(self, subnet: Subnet) -> Subnet:
        """The representative of all subnets that compute the same function with the same weights; by default the subnet
        itself.
        """
        return subnet

    def neighbours(self, subnet: Subnet) -> list[Subnet]:
        """Every subnet that differs in exactly one decision."""
        return [
            (*subnet[:decision], other, *subnet[decision + 1 :])
            for decision, operation in enumerate(self.check(subnet))
            for other in self._legal[decision]
            if other != operation
        ]

    def complexity(self, subnet: Subnet, measure: Measure = "parameters") -> int:
        """Weights of convolutions and classifier (no biases, no normalization), or their multiply-accumulates for
        one image.
        """
        fixed, costs = self._costs[measure]
        return fixed + sum(cost[operation] for cost, operation in zip(costs, subnet))

    def complexity_range(self, measure: Measure = "parameters") -> tuple[int, int]:
        """The least and the largest complexity in the space."""
        fixed, costs = self._costs[measure]
        return fixed + sum(min(cost.values()) for cost in costs), fixed + sum(max(cost.values()) for cost in costs)

    @cached_property
    def _legal(self) -> list[tuple[int, ...]]:
        return [self.choices(decision) for decision in range(len(self.decisions))]

    @cached_property
    def _costs(self) -> dict[Measure, tuple[int, list[dict[int, int]]]]:
        return {
            measure: (
                self.fixed_cost(measure),
                [
                    {operation: self.cost(decision, operation, measure) for operation in legal}
                    for decision, legal in enumerate(self._legal)
                ],
            )
            for measure in MEASURES
        }
