"""How discrete weights move: transitions, step sizes and oscillations of a layer, whatever optimizer trains it.

Oscillation as in "Overcoming Oscillations in Quantization-Aware Training", Nagel et al., ICML 2022, Eq. (5)-(6): a weight
oscillates when it transits in the direction opposite to its last transition; its frequency is a running mean of that.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class TransitionTracker:
    """One layer, told its discrete weights after every update.

    discrete: the function from the latent weight to its integer levels. m: momentum of the running transition rate (Eq. 10 of
    the transition-rate paper); m_o: of the oscillation frequency, f = (1 - m_o) f + m_o o (0.01).
    """

    def __init__(self, discrete: Callable[[Tensor], Tensor], weight: Tensor, m: float = 0.99, m_o: float = 0.01):
        self.discrete, self.m, self.m_o = discrete, m, m_o
        self.levels = discrete(weight).to(torch.int8)
        self.direction = torch.zeros_like(self.levels)              # sign of each weight's last transition; 0: none yet
        self.frequency = torch.zeros(weight.shape, device=weight.device)
        self.transition_rate = torch.zeros((), device=weight.device)            # k of the last update
        self.running_transition_rate = torch.zeros((), device=weight.device)    # K
        self.jump = torch.zeros((), device=weight.device)           # mean |change of level| of the last update

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
