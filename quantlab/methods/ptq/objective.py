"""What a method of post-training quantization is made of: phases, each with an objective that its iterations
minimise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from quantlab.methods.ptq.method import DiffusionPTQ


class Objective:
    """What an iteration minimises. The method has the data, the quantized network, what is learned, and the
    optimizer.
    """

    def __init__(self, method: "DiffusionPTQ"):
        self.method = method

    def start(self) -> None:
        """Its phase begins; the network is as the phase before left it."""

    def prepare(self) -> None:
        """Asked before every iteration, the first one after a resume among them."""

    def end(self) -> None:
        """Its phase is over."""

    def denoising_steps(self, step: int, first: int) -> range:
        """Which denoising steps iteration `step` of the run simulates; `first`: that with which the phase began."""
        raise NotImplementedError  # every objective's own

    def gradients(self, batch: dict) -> dict[str, Tensor]:
        """Add the gradients of a batch of `GroupDataset` to .grad; returns scalars to log, `loss` among them."""
        raise NotImplementedError  # every objective's own

    def evaluations(self, steps: Sequence[int]) -> float:
        """What an iteration over these denoising steps costs, in forward passes of one batch; a backward pass
        counts two.
        """
        raise NotImplementedError  # every objective's own

    def state_dict(self) -> dict[str, Any]:
        """What a run that is resumed inside the phase could not find again."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""


@dataclass
class Phase:
    """So many iterations of one objective: an optimization of its own, with learning rates and annealing that begin
    anew.
    """

    objective: Objective
    iterations: int
    rates: Any  # the learning rates it starts with: `rounding` and `activation_scales`
