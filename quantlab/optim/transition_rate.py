"""SGDT, AdamT, AdamWT: schedule the transition rate of quantized weights instead of a learning rate.

"Scheduling Weight Transitions for Quantization-Aware Training", Lee et al., ICCV 2025, arXiv 2404.19248. A latent weight w is
trained; the network sees its discrete version w_d. A *transition* is a change of w_d. In every layer, at every update t:

    k = share of weights with w_d^t != w_d^{t-1}                                    (5)
    K^t = m K^{t-1} + (1 - m) k^t                  running transition rate          (10)
    U^t = max(0, U^{t-1} + eta (R^t - K^t))        transition-adaptive learning rate (11)
    w^{t+1} = w^t - U^t g^t                                                         (12)

R is the target transition rate, which takes the place of the learning rate: any scheduler of torch moves it. g is the
ordinary optimizer's direction: the momentum buffer of SGD, Adam's m^ / (sqrt(v^) + eps).

    optimizer = SGDT([
        {"params": [conv.weight], "discretize": [quantizer.discrete], "lr": 5e-3 * 2**0.5},   # lr: the target R
        {"params": others},                                                                   # lr: a learning rate
    ], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)            # moves both
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

RULES = ("additive", "multiplicative", "momentum_multiplicative")
EPS = 1e-8      # in R / K


def updated_talr(rule: str, U: Tensor, R: float, K: Tensor, eta: float, m: float) -> Tensor:
    """U^t from U^{t-1}, the target R and the running rate K (0-dimensional tensors; rates are fractions, not percent).

    additive: Eq. (11), the paper's. multiplicative: U R / K (Eq. S1), fast and restless. momentum_multiplicative:
    m U + (1 - m) U R / K (Eq. S2), which is what the authors' released code does. None is ever negative.
    """
    if rule == "additive":
        return (U + eta * (R - K)).clamp_(min=0)
    wanted = U * (R / (K + EPS))
    return wanted if rule == "multiplicative" else m * U + (1 - m) * wanted


class TransitionRateOptimizer(Optimizer):
    """What the three share. A subclass gives the direction g of a group's parameters.

    A group with the key `discretize` is scheduled by transition rate: one function per parameter, from the latent weight to its
    discrete levels (integers from -128 to 127 in a tensor of the same shape, any dtype). In such a group `lr` is the target
    R^t. Every other group is the ordinary optimizer's.

    initial_talr: U^0 (the paper: the learning rate of the plain optimizer). eta: gain of the additive rule; None: U^0, as the
    paper. m: momentum of the running rate (0.99). rule: see `updated_talr`.

    The paper leaves K^0 and the first update open; as the released code, K^0 = R^0, and the first update, which has no earlier
    discrete weights to compare with, uses U^0. Transitions are counted when `step` is called, between the weights of two
    successive updates, so gradient accumulation and skipped steps of a gradient scaler count right; processes that hold the same
    weights count the same.

    Raises: ValueError for a rule, target, m, initial_talr or eta that is not allowed, or a `discretize` of another length
    than `params`.
    """

    def __init__(self, params: Iterable, defaults: dict, initial_talr: float | None, eta: float | None, m: float, rule: str):
        self._discretize: dict[Tensor, Callable[[Tensor], Tensor]] = {}
        initial_talr = defaults["lr"] if initial_talr is None else initial_talr
        super().__init__(params, defaults | {"initial_talr": initial_talr, "eta": eta, "m": m, "rule": rule})

    def add_param_group(self, param_group: dict) -> None:
        param_group = dict(param_group)
        functions = param_group.pop("discretize", None)     # not a value that a checkpoint could hold
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["scheduled"] = functions is not None
        if functions is None:
            return
        functions = list(functions)
        if len(functions) != len(group["params"]):
            raise ValueError(f"discretize: got {len(functions)} functions for {len(group['params'])} parameters; give one each")
        if group["rule"] not in RULES:
            raise ValueError(f"rule: got {group['rule']!r}, allowed: {', '.join(RULES)}")
        if not 0 < group["lr"] <= 1:
            raise ValueError(f"lr of a scheduled group is its target transition rate: got {group['lr']}, allowed: above 0, up to 1")
        if not 0 <= group["m"] < 1:
            raise ValueError(f"m: got {group['m']}, allowed: from 0 to below 1")
        if group["initial_talr"] <= 0 or (group["eta"] is not None and group["eta"] <= 0):
            raise ValueError(f"initial_talr and eta: got {group['initial_talr']} and {group['eta']}, allowed: above 0")
        self._discretize |= dict(zip(group["params"], functions))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update. `closure`, if given, computes the loss and its gradients again."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            if not group["scheduled"]:
                self._decay(params, group, [group["lr"]] * len(params))
                torch._foreach_add_(params, self._directions(params, group), alpha=-group["lr"])
                continue
            talrs = [self._scheduled_talr(p, group) for p in params]
            self._decay(params, group, talrs)
            for p, g, U in zip(params, self._directions(params, group), talrs):
                p.addcmul_(g, U, value=-1)
        return loss

    def _scheduled_talr(self, p: Tensor, group: dict) -> Tensor:
        """U^t of the layer whose latent weight is p, after counting the transitions since the update before."""
        state, R = self.state[p], group["lr"]
        discrete = self._discretize[p](p).to(torch.int8)
        if "discrete" not in state:
            state["running_transition_rate"] = torch.full((), float(R), dtype=torch.float32, device=p.device)
            state["talr"] = torch.full((), float(group["initial_talr"]), dtype=torch.float32, device=p.device)
        else:
            k = (discrete != state["discrete"]).mean(dtype=torch.float32)
            K = state["running_transition_rate"].lerp_(k, 1 - group["m"])
            eta = group["initial_talr"] if group["eta"] is None else group["eta"]
            state["talr"] = updated_talr(group["rule"], state["talr"], R, K, eta, group["m"])
        state["discrete"] = discrete
        return state["talr"]

    def _decay(self, params: list[Tensor], group: dict, rates: list) -> None:
        """Weight decay that is not part of the gradient (AdamW's)."""

    def _directions(self, params: list[Tensor], group: dict) -> list[Tensor]:
        """g of Eq. (12), one tensor per parameter. Advances the optimizer's own memory."""
        raise NotImplementedError  # each optimizer has its own

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)     # gives every tensor the parameter's dtype
        for state in self.state.values():
            if "discrete" in state:
                state["discrete"] = state["discrete"].to(torch.int8)
                for name in ("running_transition_rate", "talr"):
                    state[name] = state[name].to(torch.float32)

    def _with_l2(self, params: list[Tensor], weight_decay: float) -> list[Tensor]:
        gradients = [p.grad for p in params]
        return torch._foreach_add(gradients, params, alpha=weight_decay) if weight_decay else gradients

    def _memory(self, params: list[Tensor], name: str) -> list[Tensor]:
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in params]


class SGDT(TransitionRateOptimizer):
    """SGD with momentum (torch's: b = momentum b + grad + weight_decay w, g = b) whose scheduled groups follow a target rate.

    lr: learning rate of ordinary groups, and U^0 of scheduled ones unless `initial_talr` says otherwise. Weight decay is L2:
    part of the gradient, so it is scaled by U too.
    """

    def __init__(self, params, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0, *,
                 initial_talr: float | None = None, eta: float | None = None, m: float = 0.99, rule: str = "additive"):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}, initial_talr, eta, m, rule)

    def _directions(self, params: list[Tensor], group: dict) -> list[Tensor]:
        gradients = self._with_l2(params, group["weight_decay"])
        if group["momentum"] == 0:
            return gradients
        buffers = self._memory(params, "momentum_buffer")
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        return buffers


class AdamT(TransitionRateOptimizer):
    """Adam (Kingma & Ba 2015; L2 weight decay) whose scheduled groups follow a target rate: g = m^ / (sqrt(v^) + eps)."""

    def __init__(self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, *, initial_talr: float | None = None, eta: float | None = None, m: float = 0.99,
                 rule: str = "additive"):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, initial_talr, eta, m, rule)

    def _gradients(self, params: list[Tensor], group: dict) -> list[Tensor]:
        return self._with_l2(params, group["weight_decay"])

    def _directions(self, params: list[Tensor], group: dict) -> list[Tensor]:
        beta1, beta2 = group["betas"]
        gradients = self._gradients(params, group)
        first, second = self._memory(params, "exp_avg"), self._memory(params, "exp_avg_sq")
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        directions = []
        for p, average, square in zip(params, first, second):
            step = self.state[p]["step"] = self.state[p].get("step", 0) + 1
            denominator = (square.sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
            directions.append((average / denominator).div_(1 - beta1**step))
        return directions


class AdamWT(AdamT):
    """AdamT with decoupled weight decay (Loshchilov & Hutter 2019): w <- (1 - U weight_decay) w first."""

    def __init__(self, params, lr: float = 3e-4, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01, **scheduling):
        super().__init__(params, lr, betas, eps, weight_decay, **scheduling)

    def _gradients(self, params: list[Tensor], group: dict) -> list[Tensor]:
        return [p.grad for p in params]

    def _decay(self, params: list[Tensor], group: dict, rates: list) -> None:
        for p, rate in zip(params, rates):
            p.mul_(1 - rate * group["weight_decay"])
