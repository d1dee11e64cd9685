"""Momentum separation: weights shared by all subnets of a supernet, a momentum of its own for each cluster of subnets.

"Subnet-Aware Dynamic Supernet Training for Neural Architecture Search", Jeon et al., CVPR 2025, arXiv 2503.10740. On
one edge (or layer) e of the search space, subnets fall into clusters by their operation there, S_i = {a : op(a, e) =
o_i}. When a subnet of S_i is trained,

    mu_i^t = beta mu_i^{t-1} + g^t

moves the weights, and every other momentum waits. So a step follows only gradients of subnets that resemble the present
one.

    optimizer = MomentumSeparation(torch.optim.SGD(supernet.parameters(), lr=0.025, momentum=0.9), clusters=5)
    optimizer.select(subnet[edge])
    loss.backward()
    optimizer.step()
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

INACTIVE = ("frozen", "decayed")


class MomentumSeparation(Optimizer):
    """`optimizer` (SGD, Adam, any whose memory is all in `state`) with one such memory per cluster; parameters, groups
    and learning rates are shared. With one cluster it is `optimizer`, bit for bit.

    clusters: how many; cluster 0 is selected at first, and has what memory `optimizer` had (with SGDT and its kin, each
    has a U of its own and counts the transitions since its own last step). Selecting another copies nothing. A
    cluster's buffer for a parameter is made when it first moves it, so memory grows to `clusters` times the
    optimizer's; frozen, to less, as the operations that tell the clusters apart are each moved by one alone. Use
    `optimizer` only through this.

    inactive_parameters: what `step` does with parameters that have no gradient, being in none of the subnets just
        trained.
    frozen: nothing, as torch >= 2 does after `zero_grad()`.
    decayed: a zero gradient for each that ever had one at a step, so that weight decay and what is left of the momentum
    move it. The paper's released code does so, knowingly or not: it was written for torch 1.8, whose `zero_grad` wrote
    zeros.

    Raises: ValueError for fewer than one cluster, an `inactive_parameters` that is not allowed, and for Adagrad, whose
    memory is made with the optimizer and not by a cluster's first step.
    """

    def __init__(self, optimizer: Optimizer, clusters: int, inactive_parameters: str = "frozen"):
        if clusters < 1:
            raise ValueError(f"clusters: got {clusters}, allowed: 1 or more, one per operation of the split edge")
        if inactive_parameters not in INACTIVE:
            raise ValueError(f"inactive_parameters: got {inactive_parameters!r}, allowed: {', '.join(INACTIVE)}")
        if isinstance(optimizer, torch.optim.Adagrad):
            raise ValueError(
                f"optimizer: got {type(optimizer).__name__}, which makes its memory before the first step, allowed: one"
                " that makes it at a parameter's first step (SGD, Adam, AdamW, NAdam, Adamax, RMSprop)"
            )
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer, self.inactive_parameters = optimizer, inactive_parameters
        self.states: list[defaultdict[Tensor, Any]] = [
            optimizer.state,
            *(defaultdict(dict) for _ in range(clusters - 1)),
        ]
        self.touched: set[Tensor] = set()  # parameters that had a gradient at some step
        self.param_groups = optimizer.param_groups
        self.select(0)

    @property
    def clusters(self) -> int:
        return len(self.states)

    def select(self, cluster: int) -> None:
        """The next steps belong to `cluster`, from 0. Raises: ValueError for one that there is not."""
        self.state = self.optimizer.state = self.states[self._checked(cluster)]
        self.cluster = cluster

    def momentum(self, parameter: Tensor, cluster: int | None = None) -> Tensor | None:
        """mu_i of a parameter, in its shape: SGD's `momentum_buffer`, Adam's `exp_avg`; None before the cluster first
        moved it.

        cluster: i, by default the selected one. It is the buffer itself, which the next step of its cluster changes.
        """
        memory = self.states[self.cluster if cluster is None else self._checked(cluster)].get(parameter, {})
        buffer: Tensor | None = memory.get("momentum_buffer", memory.get("exp_avg"))
        return buffer

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update by the selected cluster. `closure`, if given, computes the loss and its gradients again, as often
        as `optimizer` calls it (LBFGS: several times, all others once). Hooks of `optimizer` run inside of this
        object's own.
        """
        if closure is None:
            self._give_zero_gradients()
            return self.optimizer.step()

        def with_zero_gradients() -> float:
            loss = closure()
            self._give_zero_gradients()
            return loss

        return self.optimizer.step(with_zero_gradients)

    def _give_zero_gradients(self) -> None:
        if self.inactive_parameters == "frozen":
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.touched.add(parameter)
                elif parameter in self.touched:
                    parameter.grad = torch.zeros_like(parameter)

    def state_dict(self) -> dict[str, Any]:
        """`states`: of each cluster what torch calls `state`; `param_groups`: torch's; `touched`: numbers of
        parameters, as in these.
        """
        packed = []
        for state in self.states:
            self.optimizer.state = state
            packed.append(self.optimizer.state_dict())
        self.optimizer.state = self.state
        groups = packed[0]["param_groups"]
        touched = [
            number
            for group, saved in zip(self.param_groups, groups)
            for parameter, number in zip(group["params"], saved["params"])
            if parameter in self.touched
        ]
        return {
            "states": [one["state"] for one in packed],
            "param_groups": groups,
            "touched": touched,
            "cluster": self.cluster,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The state of one of these, or of a plain optimizer of `optimizer`'s kind. The latter means what constructing
        from that optimizer does: its memory is cluster 0's, which is selected, and the others have none; what it has a
        memory of had a gradient.

        Raises: ValueError for the state of another number of clusters, of other groups of parameters, or of no
        optimizer.
        """
        if missing := {"param_groups", "states" if "states" in state_dict else "state"} - state_dict.keys():
            raise ValueError(
                f"state_dict: got no {' and no '.join(sorted(missing))}, allowed: what state_dict() of"
                " MomentumSeparation or of a torch optimizer gives"
            )
        if "states" not in state_dict:
            plain = state_dict["state"]
            state_dict = {
                "states": [plain, *({} for _ in range(self.clusters - 1))],
                "param_groups": state_dict["param_groups"],
                "touched": list(plain),
                "cluster": 0,
            }
        saved = state_dict["states"]
        if len(saved) != self.clusters:
            raise ValueError(
                f"clusters: got {self.clusters}, and a state of {len(saved)}; load it into one with"
                f" clusters={len(saved)}"
            )
        for cluster, state in enumerate(saved):
            self.optimizer.load_state_dict({"state": state, "param_groups": state_dict["param_groups"]})
            self.states[cluster] = self.optimizer.state
        self.param_groups = self.optimizer.param_groups
        numbered = {
            number: parameter
            for group, saved_group in zip(self.param_groups, state_dict["param_groups"])
            for parameter, number in zip(group["params"], saved_group["params"])
        }
        self.touched = {numbered[number] for number in state_dict["touched"]}
        self.select(state_dict["cluster"])

    def __getstate__(self) -> dict[str, Any]:
        own = ("optimizer", "inactive_parameters", "states", "touched", "cluster")
        return super().__getstate__() | {name: getattr(self, name) for name in own}

    def _checked(self, cluster: int) -> int:
        if not 0 <= cluster < self.clusters:
            raise ValueError(f"cluster: got {cluster}, allowed: 0 to {self.clusters - 1}")
        return cluster
