"""How discrete weights move: transitions, step sizes and oscillations of a layer under any optimizer, and two remedies.

"Overcoming Oscillations in Quantization-Aware Training", Nagel et al., ICML 2022: a weight oscillates when it moves in
the direction opposite to its last transition; its frequency f is a running mean of such events (Eq. 5, 6). The paper's
remedies are *dampening*, a loss that pulls latent weights to the center of their bin, and *iterative freezing*, which
permanently freezes weights whose frequency exceeds a threshold.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class TransitionTracker:
    """Transition statistics of one layer, updated with its latent weight after every optimizer step.

    discrete: the function from the latent weight to its integer levels. m: momentum of the running transition rate (Eq.
    10 of the transition-rate paper); m_o: of the oscillation frequency, f = (1 - m_o) f + m_o o (Nagel et al.'s code:
    0.001).
    """

    def __init__(self, discrete: Callable[[Tensor], Tensor], weight: Tensor, m: float = 0.99, m_o: float = 0.001):
        self.discrete, self.m, self.m_o = discrete, m, m_o
        self.levels = discrete(weight).to(torch.int8)
        self.direction = torch.zeros_like(self.levels)  # sign of each weight's last transition; 0: none yet
        self.frequency = torch.zeros(weight.shape, device=weight.device)
        self.transition_rate = torch.zeros((), device=weight.device)  # k of the last update
        self.running_transition_rate = torch.zeros((), device=weight.device)  # K
        self.jump = torch.zeros((), device=weight.device)  # mean |change of level| of the last update

    @torch.no_grad()
    def update(self, weight: Tensor) -> None:
        """`weight`: the latent weight after an update."""
        levels = self.discrete(weight).to(torch.int8)
        change = levels - self.levels
        moved = change.sign()
        reversed_ = moved * self.direction < 0
        self.frequency.mul_(1 - self.m_o).add_(reversed_, alpha=self.m_o)
        self.direction = torch.where(moved == 0, self.direction, moved)
        self.transition_rate = moved.abs().mean(dtype=torch.float32)
        self.running_transition_rate.lerp_(self.transition_rate, 1 - self.m)
        self.jump = change.abs().mean(dtype=torch.float32)
        self.levels = levels

    def oscillating_share(self, threshold: float = 0.005) -> Tensor:
        """Share of weights whose frequency is above `threshold` (Nagel et al.: 0.005)."""
        return (self.frequency > threshold).mean(dtype=torch.float32)

    def state_dict(self) -> dict[str, Tensor]:
        names = ("levels", "direction", "frequency", "transition_rate", "running_transition_rate", "jump")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in state.items():
            setattr(self, name, tensor.to(getattr(self, name), copy=True))


def dampening_loss(weight: Tensor, bin_center: Tensor, clipped: Tensor, aggregation: str = "kernel_mean") -> Tensor:
    """Nagel et al., Eq. (7): the squared distance of latent weights `[O, ...]` from the center of their bin; a scalar.

    bin_center: the quantized value in units of the weight, taken as constant. clipped: bool, where the weight lies
    outside its quantizer's range and contributes nothing. aggregation over the weights of the layer: kernel_mean
    (summed over output channels, averaged within each; the default of the authors' code), sum (the paper's), mean.
    """
    squared = torch.where(clipped, 0.0, weight - bin_center).square()
    if aggregation == "kernel_mean":
        return squared.sum(0).mean()
    return squared.sum() if aggregation == "sum" else squared.mean()


class IterativeFreezing:
    """Nagel et al., Algorithm 1, of one layer: a weight whose oscillation frequency exceeds a threshold is fixed for
    the rest of training at the level where it spent most of its time: the rounded running mean of its levels (momentum
    m_o) up to the previous update.

    latent: maps levels (float tensor) to the latent weight at the center of their bin. It is called again at every
    update, so that a frozen weight keeps its level while the scale is learned. Updates the tracker itself.

    The running mean starts at the first update that has a threshold, as in the authors' code, so a weight that freezes
    soon afterwards keeps roughly the level it had then. mean_from_start: it starts at construction instead and covers
    the whole run (Algorithm 1 always has a threshold and does not distinguish the two).

    In the authors' code a layer sees a new level in its next forward pass, so a weight freezes one pass later than
    here.
    """

    def __init__(self, tracker: TransitionTracker, latent: Callable[[Tensor], Tensor], mean_from_start: bool = False):
        self.tracker, self.latent = tracker, latent
        self.mean_level = tracker.levels.to(torch.float32) if mean_from_start else None
        self.frozen = torch.zeros_like(tracker.levels, dtype=torch.bool)
        self.frozen_level = torch.zeros_like(tracker.levels)

    @torch.no_grad()
    def update(self, weight: Tensor, threshold: float | None) -> None:
        """Move the frozen among `weight` back, in place. threshold: on the frequency; None: freeze no further
        weights.
        """
        self._hold(weight)
        self.tracker.update(weight)
        levels = self.tracker.levels.to(torch.float32)
        if threshold is not None:
            self.mean_level = levels.clone() if self.mean_level is None else self.mean_level
            self._freeze(self.tracker.frequency > threshold, self.mean_level)
            self._hold(weight)
        if self.mean_level is not None:
            self.mean_level.lerp_(levels, self.tracker.m_o)

    def _freeze(self, oscillating: Tensor, mean_level: Tensor) -> None:
        # Through the quantizer: rounding the mean could give 0, which is no level of a one-bit weight
        nearest = self.tracker.discrete(self.latent(mean_level)).to(torch.int8)
        self.frozen_level = torch.where(oscillating & ~self.frozen, nearest, self.frozen_level)
        self.frozen |= oscillating

    def _hold(self, weight: Tensor) -> None:
        held = self.latent(self.frozen_level.to(torch.float32)).to(weight.dtype)
        weight.copy_(torch.where(self.frozen, held, weight))

    def state_dict(self) -> dict[str, Tensor | None]:
        """`mean_level` is None until the running mean starts."""
        return {name: getattr(self, name) for name in ("mean_level", "frozen", "frozen_level")}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        for name, tensor in state.items():
            setattr(self, name, None if tensor is None else tensor.to(self.frozen.device, copy=True))
