"""Momentum separation: all subnets of a supernet share weights, and each cluster of subnets has its own momentum.

"Subnet-Aware Dynamic Supernet Training for Neural Architecture Search", Jeon et al., CVPR 2025, arXiv 2503.10740. On
one edge (or layer) e of the search space, subnets fall into clusters by their operation there, S_i = {a : op(a, e) =
o_i}. When a subnet of S_i is trained,

    mu_i^t = beta mu_i^{t-1} + g^t

moves the weights and all other momenta stay as they are. A step thus follows only gradients of subnets that resemble
the current one.

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
    """`optimizer` (SGD, Adam, any that keeps its buffers in `state`) with one `state` per cluster; parameters, groups
    and learning rates are shared. With one cluster it equals `optimizer` bit for bit.

    clusters: their number. Cluster 0 is selected initially and takes over the state of `optimizer` (with SGDT and its
    relatives, each cluster has its own U and counts the transitions since its own last step). Selecting a cluster
    copies nothing. A cluster's buffer for a parameter is created at its first update, so memory grows to `clusters`
    times the optimizer's; with `frozen` to less, since each operation of the split decision is updated by one cluster
    only. Use `optimizer` only through this object.

    inactive_parameters: what `step` does with parameters without a gradient, which belong to none of the subnets just
        trained.
    frozen: nothing, as torch >= 2 does after `zero_grad()`.
    decayed: each that ever had a gradient gets a zero one, so that weight decay and remaining momentum move it. The
    paper's released code does this, intended or not: it was written for torch 1.8, whose `zero_grad` wrote zeros.

    Raises: ValueError for fewer than one cluster, an unknown `inactive_parameters`, and for Adagrad, which creates its
    state at construction rather than at a cluster's first step.
    """

    def __init__(self, optimizer: Optimizer, clusters: int, inactive_parameters: str = "frozen"):
        if clusters < 1:
            raise ValueError(f"clusters: got {clusters}, allowed: 1 or more, one per operation of the split edge")
        if inactive_parameters not in INACTIVE:
            raise ValueError(f"inactive_parameters: got {inactive_parameters!r}, allowed: {', '.join(INACTIVE)}")
        if isinstance(optimizer, torch.optim.Adagrad):
            raise ValueError(
                f"optimizer: got {type(optimizer).__name__}, which creates its state before the first step, allowed:"
                " one that creates it at a parameter's first step (SGD, Adam, AdamW, NAdam, Adamax, RMSprop)"
            )
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer, self.inactive_parameters = optimizer, inactive_parameters
        self.states: list[defaultdict[Tensor, Any]] = [
            optimizer.state,
            *(defaultdict(dict) for _ in range(clusters - 1)),
        ]
        self.touched: set[Tensor] = set()  # parameters that have had a gradient
        self.param_groups = optimizer.param_groups
        self.select(0)

    @property
    def clusters(self) -> int:
        return len(self.states)

    def select(self, cluster: int) -> None:
        """The next steps update `cluster`, from 0. Raises: ValueError for a number out of range."""
        self.state = self.optimizer.state = self.states[self._checked(cluster)]
        self.cluster = cluster

    def momentum(self, parameter: Tensor, cluster: int | None = None) -> Tensor | None:
        """mu_i of a parameter, in its shape: SGD's `momentum_buffer`, Adam's `exp_avg`; None before the cluster's first
        update of it.

        cluster: i, by default the selected one. Returns the buffer itself, which the cluster's next step changes.
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
        as `optimizer` calls it (LBFGS several times, all others once). Hooks of `optimizer` run inside this object's
        own.
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
        """`states`: torch's `state` of each cluster; `param_groups`: torch's; `touched`: parameter numbers as in
        `param_groups`.
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
        """Load the state of a `MomentumSeparation`, or of a plain optimizer of `optimizer`'s kind. The latter is the
        same as wrapping that optimizer: its state becomes that of cluster 0, which is selected; the other clusters have
        none; parameters that it has state for count as having had a gradient.

        Raises: ValueError for a state with another number of clusters or other parameter groups, or that is not an
        optimizer's.
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
