"""Which subnets to score in search of the best: all, random ones, or the offspring of good ones.

A strategy calls `score` on lists of subnets (higher is better), never twice on the same subnet, and returns what it
scored, best first. Random draws use the given generator, so that the same seed and scores find the same subnet.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from quantlab.errors import RequestError
from quantlab.search.spaces import Measure, SearchSpace, Subnet

Score = Callable[[list[Subnet]], list[float]]
Scored = list[tuple[Subnet, float]]  # best first; ties go to the one scored first

EXHAUSTIBLE = 10**6  # subnets; NAS-Bench-201 has 15,625, the MobileNet space 2e17
TRIES = 100  # draws before a rare event is assumed impossible


@dataclass(frozen=True)
class ComplexityLimit:
    """Subnets of at most `largest` parameters or FLOPs."""

    space: SearchSpace
    measure: Measure
    largest: float

    def check(self, key: str = "method.search.complexity_limit") -> None:
        """Raises RequestError, under the name `key`, if even the smallest subnet exceeds the limit."""
        least, most = self.space.complexity_range(self.measure)
        if self.largest < least:
            raise RequestError(
                f"{key}: got {self.largest} {self.measure}, which excludes every subnet of {self.space.name}, allowed:"
                f" from {least} (the smallest) to {most} (no limit); type {key}={least}, or null for none"
            )

    def allows(self, subnet: Subnet) -> bool:
        return self.space.complexity(subnet, self.measure) <= self.largest


def require_exhaustible(space: SearchSpace) -> None:
    """Raises RequestError for a space too large to score every subnet."""
    if space.size > EXHAUSTIBLE:
        raise RequestError(
            f"method.search.strategy: got exhaustive, but {space.name} has {space.size} subnets, allowed there: random,"
            " evolutionary; type method.search.strategy=evolutionary"
        )


def exhaustive(space: SearchSpace, score: Score, limit: ComplexityLimit | None = None, chunk: int = 1000) -> Scored:
    """Every subnet within the limit, `chunk` at a time. Raises RequestError as `require_exhaustible`."""
    _check(limit)
    require_exhaustible(space)
    every = (subnet for subnet in map(space.subnet, range(space.size)) if limit is None or limit.allows(subnet))
    scored: Scored = []
    while part := list(islice(every, chunk)):
        scored += zip(part, score(part))
    return _ranked(scored)


def random_search(
    space: SearchSpace, score: Score, count: int, rng: np.random.Generator, limit: ComplexityLimit | None = None
) -> Scored:
    """`count` different subnets within the limit, or fewer if there are no more."""
    _check(limit)
    drawn = list(islice(_unseen_subnets(space, rng, limit, seen=set()), count))
    return _ranked(list(zip(drawn, score(drawn))))


def evolutionary_search(
    space: SearchSpace,
    score: Score,
    rng: np.random.Generator,
    limit: ComplexityLimit | None = None,
    *,
    population: int = 50,
    generations: int = 20,
    parents: int = 10,
    crossover: int = 25,
    mutation: int = 25,
    mutation_probability: float = 0.1,
) -> Scored:
    """The search of SPOS (Guo et al. 2020, Alg. 1; constants of the lab's released code).

    population: subnets scored in each of `generations`, random in the first; parents: the best ever scored, from which
    `mutation` children are made by redrawing each decision with `mutation_probability`, and `crossover` children by
    taking each decision from one of two parents. Children that were already scored or exceed the limit are redrawn, up
    to ten tries per child; random subnets fill the remaining places. Ends early when nothing unscored is left. The
    released code does not count the random generation among its 20: it scores as many subnets as 21 generations here.
    """
    _check(limit)
    scored: Scored = []
    seen: set[Subnet] = set()

    def mutant(pool: list[Subnet]) -> Subnet:
        parent, other = pool[rng.integers(len(pool))], space.sample(rng)
        redrawn = rng.random(len(parent)) < mutation_probability
        return tuple(new if anew else old for old, new, anew in zip(parent, other, redrawn))

    def cross(pool: list[Subnet]) -> Subnet:
        first, second = pool[rng.integers(len(pool))], pool[rng.integers(len(pool))]
        return tuple(one if take else other for one, other, take in zip(first, second, rng.random(len(first)) < 0.5))

    for _ in range(generations):
        candidates: list[Subnet] = []
        pool = [subnet for subnet, _ in scored[:parents]]
        for make, wanted in ((mutant, mutation), (cross, crossover)) if pool else ():
            children = (make(pool) for _ in range(10 * wanted))
            candidates += islice(_unseen(children, seen, limit), min(wanted, population - len(candidates)))
        candidates += islice(_unseen_subnets(space, rng, limit, seen), population - len(candidates))
        if not candidates:
            break
        scored = _ranked(scored + list(zip(candidates, score(candidates))))
    return scored


def draw_within(space: SearchSpace, rng: np.random.Generator, limit: ComplexityLimit | None) -> Subnet:
    """A random subnet within the limit: uniform, by rejection; after a hundred rejected draws, decision by decision.

    Decision by decision (our choice) means in random order, uniformly among the operations that leave room for the
    smallest choice elsewhere. This is not uniform over subnets, but always finds one.
    """
    for _ in range(TRIES):
        subnet = space.sample(rng)
        if limit is None or limit.allows(subnet):
            return subnet
    choices = [space.choices(decision) for decision in range(len(space.decisions))]
    chosen = [
        min(legal, key=lambda operation: space.cost(decision, operation, limit.measure))
        for decision, legal in enumerate(choices)
    ]
    for decision in rng.permutation(len(chosen)):
        fitting = [
            operation
            for operation in choices[decision]
            if limit.allows((*chosen[:decision], operation, *chosen[decision + 1 :]))
        ]
        chosen[decision] = fitting[rng.integers(len(fitting))]
    return tuple(chosen)


def _unseen_subnets(
    space: SearchSpace, rng: np.random.Generator, limit: ComplexityLimit | None, seen: set[Subnet]
) -> Iterator[Subnet]:
    """Random subnets that were not seen before, until a hundred draws in a row were."""
    while True:
        subnet = next(_unseen((draw_within(space, rng, limit) for _ in range(TRIES)), seen, limit), None)
        if subnet is None:
            return
        yield subnet


def _unseen(subnets: Iterator[Subnet], seen: set[Subnet], limit: ComplexityLimit | None) -> Iterator[Subnet]:
    """Those within the limit that are not in `seen`, to which they are added."""
    for subnet in subnets:
        if subnet not in seen and (limit is None or limit.allows(subnet)):
            seen.add(subnet)
            yield subnet


def _ranked(scored: Scored) -> Scored:
    return sorted(scored, key=lambda one: -one[1])


def _check(limit: ComplexityLimit | None) -> None:
    if limit is not None:
        limit.check()
