"""CaLR: a learning rate that decays fast for small subnets of a supernet and slowly for large ones.

"Subnet-Aware Dynamic Supernet Training for Neural Architecture Search", Jeon et al., CVPR 2025, arXiv 2503.10740. At
iteration t of T, when subnet a of complexity C(a) is trained:

    eta_t(a) = eta_0 (1 - t/T)^gamma(a)         gamma(a) = omega ln C(a) + tau

gamma runs from gamma_max for the smallest subnet to 1 / gamma_max for the largest. Where gamma is 1, the decay is
linear.

    calr = CaLR(optimizer, total=steps, least=72_752, largest=1_524_272)
    for t in range(steps):
        subnet = draw()
        loss(subnet).backward()
        calr.set(t, complexity(subnet))
        optimizer.step()

Where gradients of several subnets are summed before one step, the released code keeps the learning rate constant and
weights each subnet's loss instead: `calr.factor(t, complexity(subnet)) * loss(subnet)`. Weight decay then stays
constant too.
"""

import math

from torch.optim import Optimizer


def decay_exponent(complexity: float, least: float, largest: float, gamma_max: float) -> float:
    """gamma of a subnet: affine in ln C, gamma_max at C = `least`, 1 / gamma_max at `largest`.

    Any measure works (parameters, multiply-accumulates), in any unit, as long as it is the same for all three. If all
    subnets have the same complexity, decay is linear, gamma = 1 (our choice: the paper has no such space).

    Raises: ValueError for a complexity outside `least` to `largest`, or a `least` or gamma_max that is not positive.
    """
    if gamma_max <= 0:
        raise ValueError(f"gamma_max: got {gamma_max}, allowed: above 0; the paper's is 4")
    if least <= 0:
        raise ValueError(f"least complexity: got {least}, allowed: above 0, as gamma is affine in its logarithm")
    if not least <= complexity <= largest:
        raise ValueError(
            f"complexity: got {complexity}, allowed: {least} to {largest}; give all three in the same measure"
        )
    if least == largest:
        return 1.0
    gamma_min = 1 / gamma_max
    omega = -(gamma_max - gamma_min) / (math.log(largest) - math.log(least))
    tau = gamma_min - omega * math.log(largest)
    return omega * math.log(complexity) + tau


def decay_factor(t: int, total: int, exponent: float) -> float:
    """(1 - t/T)^gamma, the remaining fraction of the initial learning rate: 1 at t = 0, (1/T)^gamma in the last
    iteration.

    t: iteration, from 0; total: T, the number of iterations. Raises: ValueError for a t outside 0 to T.
    """
    if not 0 <= t <= total or total == 0:
        raise ValueError(f"t: got {t} of {total} iterations, allowed: 0 to {total}, of at least 1")
    return float((1 - t / total) ** exponent)


class CaLR:
    """Sets the learning rate of every group of `optimizer` to `initial_lr` (1 - t/T)^gamma(a) for the subnet about to
    be trained.

    total: T, iterations of the whole run; least, largest: complexity of the smallest and the largest subnet of the
    space. Like torch's schedulers, each group's `initial_lr` defaults to its `lr` at construction; for a group added
    later, to its `lr` at the next `set`.

    Not an `LRScheduler`, though it is used much like one. Those count their own steps and must step after the
    optimizer; this rate depends on the iteration and on the subnet drawn for it, so it is set before the step and
    nothing is counted.
    """

    def __init__(self, optimizer: Optimizer, total: int, least: float, largest: float, gamma_max: float = 4.0):
        self.optimizer = optimizer
        self.total, self.least, self.largest, self.gamma_max = total, least, largest, gamma_max
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.factor(0, least)  # raises here for values that are not allowed

    def factor(self, t: int, complexity: float) -> float:
        """(1 - t/T)^gamma(a), for a subnet of that complexity. Raises: as `decay_exponent` and `decay_factor`."""
        return decay_factor(t, self.total, decay_exponent(complexity, self.least, self.largest, self.gamma_max))

    def set(self, t: int, complexity: float) -> float:
        """Call before `optimizer.step`, with the global iteration t from 0. Returns the factor."""
        factor = self.factor(t, complexity)
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        return factor

    def state_dict(self) -> dict[str, float]:
        """The schedule's four numbers; initial rates are part of the optimizer's state."""
        return {name: getattr(self, name) for name in ("total", "least", "largest", "gamma_max")}

    def load_state_dict(self, state: dict[str, float]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
