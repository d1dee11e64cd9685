"""Which subnets a supernet's training step sees: SPOS, FairNAS, few-shot NAS. Every draw is the generator's that the caller gives."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from quantlab.search.spaces import SearchSpace, Subnet

if TYPE_CHECKING:   # the command's help imports this, and shall answer at once
    import numpy as np


class Sampler(ABC):
    """Base: one supernet. `parts`: how many supernets are trained, one after the other."""

    parts = 1

    def __init__(self, space: SearchSpace):
        self.space = space

    @abstractmethod
    def draw(self, rng: "np.random.Generator", part: int, shared: int | None) -> list[Subnet]:
        """The subnets of one step, whose gradients are summed. shared: a decision at which all have the same operation (of momentum
        separation, whose clusters go by it); None: no such decision."""

    def part_of(self, subnet: Subnet) -> int:
        """Which supernet knows the subnet."""
        return 0

    def within(self, subnet: Subnet, part: int) -> Subnet:
        """The subnet as supernet `part` could draw it."""
        return subnet


class SPOS(Sampler):
    """One subnet, uniform: "Single Path One-Shot Neural Architecture Search with Uniform Sampling", Guo et al., ECCV 2020."""

    def draw(self, rng: "np.random.Generator", part: int, shared: int | None) -> list[Subnet]:
        return [self.space.sample(rng)]


class FairNAS(Sampler):
    """Every operation of every decision once a step: "FairNAS", Chu et al., ICCV 2021 (strict fairness).

    A random order of the operations per decision; subnet k takes the k-th of each. With a shared decision its one operation is drawn for
    all, and fairness there holds in expectation only (the supernet paper's released code). Where decisions offer different numbers
    of operations, the shorter orders begin again (our choice): there an operation may come twice.
    """

    def draw(self, rng: "np.random.Generator", part: int, shared: int | None) -> list[Subnet]:
        choices = [self.space.choices(decision) for decision in range(len(self.space.decisions))]
        orders = [rng.permutation(legal).tolist() for legal in choices]
        if shared is not None:
            orders[shared] = [choices[shared][rng.integers(len(choices[shared]))]]
        return [tuple(order[k % len(order)] for order in orders) for k in range(max(map(len, choices)))]


class FSNAS(Sampler):
    """Few-shot NAS (Zhao et al., ICML 2021): one supernet per operation of one decision, `split`, which is fixed in it; inside, as SPOS."""

    def __init__(self, space: SearchSpace, split: int):
        super().__init__(space)
        self.split, self.fixed = split, space.choices(split)
        self.parts = len(self.fixed)

    def draw(self, rng: "np.random.Generator", part: int, shared: int | None) -> list[Subnet]:
        return [self.within(self.space.sample(rng), part)]

    def part_of(self, subnet: Subnet) -> int:
        return self.fixed.index(subnet[self.split])

    def within(self, subnet: Subnet, part: int) -> Subnet:
        return (*subnet[: self.split], self.fixed[part], *subnet[self.split + 1 :])


def build_sampler(name: str, space: SearchSpace, split: int) -> Sampler:
    """name: spos, fairnas, fsnas; split: the decision that fsnas splits on."""
    return {"spos": SPOS, "fairnas": FairNAS}[name](space) if name != "fsnas" else FSNAS(space, split)
