"""SGDT, AdamT, AdamWT and four more: schedule the transition rate of quantized weights instead of the learning rate.

"Scheduling Weight Transitions for Quantization-Aware Training", Lee et al., ICCV 2025, arXiv 2404.19248. A latent
weight w is trained; the network sees its discrete version w_d. A *transition* is a change of w_d. In every layer, at
every update t:

    k = share of weights with w_d^t != w_d^{t-1}                                    (5)
    K^t = m K^{t-1} + (1 - m) k^t                  running transition rate          (10)
    U^t = max(0, U^{t-1} + eta (R^t - K^t))        transition-adaptive learning rate (11)
    w^{t+1} = w^t - U^t g^t                                                         (12)

R is the target transition rate, which takes the place of the learning rate: any torch scheduler changes it. g is the
update direction of the plain optimizer: the momentum buffer of SGD, Adam's m^ / (sqrt(v^) + eps). Every optimizer here
is torch's own, whose `step` is called with U as the learning rate of each layer.

    optimizer = SGDT([
        {"params": [conv.weight], "discretize": [quantizer.discrete], "lr": 5e-3 * 2**0.5},   # lr: the target R
        {"params": others},                                                                   # lr: a learning rate
    ], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)            # changes both
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

RULES = ("additive", "multiplicative", "momentum_multiplicative")
EPS = 1e-8  # in R / K
COUNTED = ("running_transition_rate", "talr", "discrete")  # K, U and w_d, in the state of a scheduled parameter


def updated_talr(rule: str, U: Tensor, R: float, K: Tensor, eta: float, m: float) -> Tensor:
    """U^t from U^{t-1}, the target R and the running rate K (0-dimensional tensors; rates are fractions, not percent).

    additive: Eq. (11), the paper's. multiplicative: U R / K (Eq. S1), fast but unsteady. momentum_multiplicative:
    m U + (1 - m) U R / K (Eq. S2), as in the authors' released code. U is never negative.
    """
    if rule == "additive":
        return (U + eta * (R - K)).clamp_(min=0)
    wanted = U * (R / (K + EPS))
    return wanted if rule == "multiplicative" else m * U + (1 - m) * wanted


class TransitionRate(torch.optim.Optimizer):
    """Mixin for torch's optimizers: `class SGDT(TransitionRate, torch.optim.SGD)`. All other arguments are passed on.

    A group with the key `discretize` is scheduled by transition rate: one function per parameter, from the latent
    weight to its discrete levels (integers from -128 to 127 in a tensor of the same shape, any dtype). In such a group
    `lr` is the target R^t, and each layer's U^t serves as torch's learning rate, including for decoupled weight decay.
    All other groups behave as in the plain optimizer, bit for bit.

    initial_talr: U^0; None: `lr` of the optimizer, as in the paper. eta: gain of the additive rule; None: U^0, as in
    the paper. m: momentum of the running rate (0.99). rule: see `updated_talr`.

    The paper leaves K^0 and the first update open. As in the released code, K^0 = R^0, and the first update, which has
    no earlier discrete weights to compare with, uses U^0. Transitions are counted in `step`, between the weights of two
    successive updates, so that gradient accumulation and steps skipped by a gradient scaler are counted correctly;
    processes with the same weights get the same counts.

    A copy (`copy.deepcopy`) has its own parameters and functions: a method bound to a quantizer becomes bound to the
    quantizer's copy, which belongs to the copied model if both are copied in one call. The same holds for pickle, which
    supports methods and module-level functions but no lambdas. `state_dict` contains no functions.

    Raises: ValueError for an invalid rule, target, m, initial_talr or eta, or a `discretize` whose length differs from
    that of `params`.
    """

    def __init__(
        self,
        params: ParamsT,
        *args: Any,
        initial_talr: float | None = None,
        eta: float | None = None,
        m: float = 0.99,
        rule: str = "additive",
        **options: Any,
    ):
        self._discretize: dict[Tensor, Callable[[Tensor], Tensor]] = {}
        self._scheduling: dict[str, Any] = {"initial_talr": initial_talr, "eta": eta, "m": m, "rule": rule}
        super().__init__(params, *args, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        param_group = dict(param_group)
        functions = param_group.pop("discretize", None)  # not a value that a checkpoint could hold
        if self._scheduling["initial_talr"] is None:
            self._scheduling["initial_talr"] = self.defaults["lr"]
        self.defaults |= self._scheduling
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["scheduled"] = functions is not None
        if functions is None:
            return
        functions = list(functions)
        if len(functions) != len(group["params"]):
            raise ValueError(
                f"discretize: got {len(functions)} functions for {len(group['params'])} parameters; give one each"
            )
        if group["rule"] not in RULES:
            raise ValueError(f"rule: got {group['rule']!r}, allowed: {', '.join(RULES)}")
        if not 0 < group["lr"] <= 1:
            raise ValueError(
                f"lr of a scheduled group is its target transition rate: got {group['lr']}, allowed: above 0, up to 1"
            )
        if not 0 <= group["m"] < 1:
            raise ValueError(f"m: got {group['m']}, allowed: from 0 to below 1")
        if group["initial_talr"] <= 0 or (group["eta"] is not None and group["eta"] <= 0):
            raise ValueError(f"initial_talr and eta: got {group['initial_talr']} and {group['eta']}, allowed: above 0")
        self._discretize |= dict(zip(group["params"], functions))

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update. `closure`, if given, computes the loss and its gradients again, once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        counted = {
            p: self._counted(p, group)
            for group in self.param_groups
            if group["scheduled"]
            for p in group["params"]
            if p.grad is not None
        }
        talrs = [values["talr"] for values in counted.values()]
        # one synchronization
        rates = dict(zip(counted, torch.stack([U.to(talrs[0].device) for U in talrs]).tolist() if talrs else ()))
        groups, self.param_groups = (
            self.param_groups,
            [part for group in self.param_groups for part in _parts(group, rates)],
        )
        try:
            self._plain_step()
        finally:
            self.param_groups = groups
        for p, values in counted.items():
            self.state[p] |= values  # afterwards: torch takes an empty state for the first update
        return loss

    def _plain_step(self) -> None:
        """torch's `step` without its hooks: those of this object's `step` already run."""
        plain: Any = super().step
        if getattr(plain, "hooked", False):  # torch wraps the `step` of a class when its first object is made
            plain = plain.__wrapped__.__get__(self)
        plain()

    def _counted(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """K^t, U^t and the levels of the layer whose latent weight is p, after counting the transitions since the
        previous update.
        """
        state, R = self.state[p], group["lr"]
        discrete = self._discretize[p](p).to(torch.int8)
        if "discrete" not in state:
            K, U = (
                torch.full((), float(value), dtype=torch.float32, device=p.device)
                for value in (R, group["initial_talr"])
            )
        else:
            k = (discrete != state["discrete"]).mean(dtype=torch.float32)
            K = state["running_transition_rate"].lerp(k, 1 - group["m"])
            eta = group["initial_talr"] if group["eta"] is None else group["eta"]
            U = updated_talr(group["rule"], state["talr"], R, K, eta, group["m"])
        return {"running_transition_rate": K, "talr": U, "discrete": discrete}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises: ValueError if the saved groups and these differ in which are scheduled."""
        saved_groups, scheduled = state_dict["param_groups"], [group["scheduled"] for group in self.param_groups]
        saved = [group.get("scheduled", False) for group in saved_groups]
        if len(saved) == len(scheduled) and saved != scheduled:
            raise ValueError(
                f"scheduled groups: got a state of {saved}, allowed: {scheduled}; give `discretize` for the groups that"
                " had it"
            )
        super().load_state_dict(state_dict)
        for group in self.param_groups:  # missing in the state of a plain optimizer or an earlier version
            for name, value in (self.defaults | {"scheduled": False}).items():
                group.setdefault(name, value)
        # torch gives every tensor the parameter's dtype, which rounds U and K of bfloat16 weights
        numbers = chain(*(group["params"] for group in saved_groups))
        for number, p in zip(numbers, chain(*(group["params"] for group in self.param_groups))):
            found = state_dict["state"].get(number, {})
            for name in COUNTED:
                if name in found:
                    self.state[p][name] = found[name].to(p.device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_discretize": self._discretize, "_scheduling": self._scheduling}


def _parts(group: dict[str, Any], rates: dict[Tensor, float]) -> list[dict[str, Any]]:
    """The groups that torch sees: `group` itself, or for a scheduled group one per parameter with a gradient, with its
    U as the learning rate.
    """
    return (
        [group | {"params": [p], "lr": rates[p]} for p in group["params"] if p in rates]
        if group["scheduled"]
        else [group]
    )


class SGDT(TransitionRate, torch.optim.SGD):
    """SGD with momentum (b = momentum b + grad + weight_decay w, g = b; with `nesterov`, g = grad + weight_decay w +
    momentum b).

    lr: learning rate of plain groups, and U^0 of scheduled ones unless `initial_talr` is given. Weight decay is L2:
    part of the gradient, so U scales it too.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **options: Any,
    ):
        super().__init__(params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, **options)


class AdamT(TransitionRate, torch.optim.Adam):
    """Adam (Kingma & Ba 2015; L2 weight decay): g = m^ / (sqrt(v^) + eps)."""


class AdamWT(TransitionRate, torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): w <- (1 - U weight_decay) w first."""

    def __init__(self, params: ParamsT, lr: float = 3e-4, *args: Any, **options: Any):
        super().__init__(params, lr, *args, **options)


class NAdamT(TransitionRate, torch.optim.NAdam):
    """Adam with Nesterov momentum (Dozat 2016)."""


class AdamaxT(TransitionRate, torch.optim.Adamax):
    """Adam with the infinity norm of past gradients in place of their root mean square (Kingma & Ba 2015)."""


class RMSpropT(TransitionRate, torch.optim.RMSprop):
    """RMSprop (Tieleman & Hinton 2012): g = grad / (sqrt(mean of grad^2) + eps)."""


class AdagradT(TransitionRate, torch.optim.Adagrad):
    """Adagrad (Duchi et al. 2011): g = grad / (sqrt(sum of grad^2) + eps)."""
