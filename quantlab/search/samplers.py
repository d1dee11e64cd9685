"""Which subnets a step trains: SPOS, FairNAS, few-shot NAS. All draws use the generator that the caller passes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from quantlab.errors import RequestError
from quantlab.search.spaces import SearchSpace, Subnet

if TYPE_CHECKING:  # imported by the command's help, which has to be fast
    import numpy as np


TRIES = 500  # draws for a subnet of the bin before any is accepted


class FlopsBins:
    """Draws that are uniform over bins of FLOPs instead of over subnets, most of which have about the same FLOPs.

    A bin is drawn, then subnets are drawn as the sampler does until one lies in it; after 500 draws the next one is
    accepted whatever its FLOPs. As in the MobileNet trainer of the lab's One-Shot-NAS code (three bins of 10 M from 300
    M to 330 M); the supernet paper's own trainer for that space is not released.
    """

    def __init__(self, space: SearchSpace, edges: Sequence[float], key: str = "method.flops_bins"):
        """edges: of the bins, ascending. Raises RequestError, under the name `key`, for a bin that contains no subnet
        of the space.
        """
        self.space, self.edges = space, edges
        least, most = space.complexity_range("flops")
        for low, high in zip(edges, edges[1:]):
            if high < least or low > most:
                middle, step = (least + most) // 2, max((most - least) // 10, 1)
                raise RequestError(
                    f"{key}: got a bin from {low:g} to {high:g}, but subnets of {space.name} have {least} to {most}"
                    f" FLOPs here, allowed: bins among these; type {key}=[{middle - step},{middle},{middle + step}], or"
                    " null for none"
                )

    def draw(self, rng: "np.random.Generator", sample: Callable[[], Subnet]) -> Subnet:
        place = rng.integers(len(self.edges) - 1)
        for _ in range(TRIES):
            subnet = sample()
            if self.edges[place] <= self.space.complexity(subnet, "flops") <= self.edges[place + 1]:
                return subnet
        return sample()


class Sampler(ABC):
    """Base class: one supernet. `parts`: the number of supernets, trained one after the other."""

    parts = 1

    def __init__(self, space: SearchSpace, bins: FlopsBins | None = None):
        """bins: how single subnets are drawn; None: uniformly over the space."""
        self.space, self.bins = space, bins

    def sample(self, rng: "np.random.Generator", part: int) -> Subnet:
        """A subnet drawn as in the training of supernet `part`."""

        def uniform() -> Subnet:
            return self.within(self.space.sample(rng), part)

        return uniform() if self.bins is None else self.bins.draw(rng, uniform)

    @abstractmethod
    def draw(self, rng: "np.random.Generator", part: int, shared: int | None) -> list[Subnet]:
        """The subnets of one step, whose gradients are summed. shared: a decision at which all have the same operation
        (momentum separation clusters by it), or None.
        """

    def part_of(self, subnet: Subnet) -> int:
        """The supernet that contains the subnet."""
        return 0

    def within(self, subnet: Subnet, part: int) -> Subnet:
        """The subnet with the operation that supernet `part` fixes."""
        return subnet


class SPOS(Sampler):
    """One subnet: "Single Path One-Shot Neural Architecture Search with Uniform Sampling", Guo et al., ECCV 2020."""

    def draw(self, rng: "np.random.Generator", part: int, shared: int | None) -> list[Subnet]:
        return [self.sample(rng, part)]


class FairNAS(Sampler):
    """Every operation of every decision once a step: "FairNAS", Chu et al., ICCV 2021 (strict fairness).

    A random order of the operations per decision; subnet k takes the k-th of each. A shared decision gets one operation
    for all, so fairness there holds in expectation only (the supernet paper's released code). If decisions offer
    different numbers of operations, shorter orders repeat (our choice), so that an operation may occur twice. Bins of
    FLOPs do not apply: the subnets of a step use every operation once and are not independent.
    """

    def draw(self, rng: "np.random.Generator", part: int, shared: int | None) -> list[Subnet]:
        choices = [self.space.choices(decision) for decision in range(len(self.space.decisions))]
        orders = [rng.permutation(legal).tolist() for legal in choices]
        if shared is not None:
            orders[shared] = [choices[shared][rng.integers(len(choices[shared]))]]
        return [tuple(order[k % len(order)] for order in orders) for k in range(max(map(len, choices)))]


class FSNAS(Sampler):
    """Few-shot NAS (Zhao et al., ICML 2021): one supernet per operation of the decision `split`; within each,
    SPOS.
    """

    def __init__(self, space: SearchSpace, split: int, bins: FlopsBins | None = None):
        super().__init__(space, bins)
        self.split, self.fixed = split, space.choices(split)
        self.parts = len(self.fixed)

    def draw(self, rng: "np.random.Generator", part: int, shared: int | None) -> list[Subnet]:
        return [self.sample(rng, part)]

    def part_of(self, subnet: Subnet) -> int:
        return self.fixed.index(subnet[self.split])

    def within(self, subnet: Subnet, part: int) -> Subnet:
        return (*subnet[: self.split], self.fixed[part], *subnet[self.split + 1 :])


def build_sampler(name: str, space: SearchSpace, split: int, flops_bins: Sequence[float] | None = None) -> Sampler:
    """name: spos, fairnas, fsnas; split: the decision that fsnas splits on; flops_bins: edges of bins (not with
    fairnas) or None.
    """
    bins = None if flops_bins is None else FlopsBins(space, flops_bins)
    return FSNAS(space, split, bins) if name == "fsnas" else {"spos": SPOS, "fairnas": FairNAS}[name](space, bins)
