"""How discrete weights move: transitions, step sizes and oscillations of a layer, whatever optimizer trains it; and two
cures.

"Overcoming Oscillations in Quantization-Aware Training", Nagel et al., ICML 2022: a weight oscillates when it transits
in the direction opposite to its last transition; its frequency f is a running mean of that (Eq. 5, 6). Against it the
paper has *dampening*, a loss that pulls latent weights to the middle of their bin, and *iterative freezing*, which
stops for good the weights whose frequency is above a threshold.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class TransitionTracker:
    """One layer, told its discrete weights after every update.

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
    """Nagel et al., Eq. (7): the squared distance of latent weights `[O, ...]` to the middle of their bin; a scalar.

    bin_center: the quantized value in units of the weight, taken as constant. clipped: bool, where the weight lies
    outside its quantizer's range; nothing pulls there. aggregation, over the weights of the layer: kernel_mean (summed
    over output channels, averaged within each; the default of the authors' code), sum (the paper's), mean.
    """
    squared = torch.where(clipped, 0.0, weight - bin_center).square()
    if aggregation == "kernel_mean":
        return squared.sum(0).mean()
    return squared.sum() if aggregation == "sum" else squared.mean()


class IterativeFreezing:
    """Nagel et al., Algorithm 1, of one layer: a weight whose oscillation frequency exceeds a threshold is fixed, for
    the rest of training, to the level where it spent most of its time: a running mean of its levels (momentum m_o) up
    to the update before, rounded.

    latent: from levels (float tensor) to the latent weight in the middle of their bin; asked anew at every update, so a
    frozen weight keeps its level though the scale is learned. Tells the tracker of every update itself.

    The mean begins with the levels at the first update that has a threshold, as in the authors' code: what freezes soon
    after keeps about the level it had then. mean_from_start: it begins with the levels at construction instead, so that
    it knows the whole run (Algorithm 1 has no time without a threshold, and does not tell the two apart).

    In the authors' code a layer learns of a new level in its next forward pass, so that a weight freezes one pass later
    than here.
    """

    def __init__(self, tracker: TransitionTracker, latent: Callable[[Tensor], Tensor], mean_from_start: bool = False):
        self.tracker, self.latent = tracker, latent
        self.mean_level = tracker.levels.to(torch.float32) if mean_from_start else None
        self.frozen = torch.zeros_like(tracker.levels, dtype=torch.bool)
        self.frozen_level = torch.zeros_like(tracker.levels)

    @torch.no_grad()
    def update(self, weight: Tensor, threshold: float | None) -> None:
        """Move the frozen among `weight` back, in place. threshold: of the frequency; None: nothing new is frozen
        yet.
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
        # Through the quantizer and not by rounding the mean, which for one bit could give 0, no level at all
        nearest = self.tracker.discrete(self.latent(mean_level)).to(torch.int8)
        self.frozen_level = torch.where(oscillating & ~self.frozen, nearest, self.frozen_level)
        self.frozen |= oscillating

    def _hold(self, weight: Tensor) -> None:
        held = self.latent(self.frozen_level.to(torch.float32)).to(weight.dtype)
        weight.copy_(torch.where(self.frozen, held, weight))

    def state_dict(self) -> dict[str, Tensor | None]:
        """`mean_level` is None before the mean has begun."""
        return {name: getattr(self, name) for name in ("mean_level", "frozen", "frozen_level")}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        for name, tensor in state.items():
            setattr(self, name, None if tensor is None else tensor.to(self.frozen.device, copy=True))
