"""The parts of a post-training method: phases, each with an objective that its iterations minimize."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from quantlab.methods.ptq.method import DiffusionPTQ


class Objective:
    """What an iteration minimizes. The method holds the data, the quantized network, the learned parameters, and the
    optimizer.
    needs_full_precision: whether every iteration evaluates the full-precision network too; words: what pictures call
    its phase.
    """

    needs_full_precision = False
    words = ""

    def __init__(self, method: "DiffusionPTQ"):
        self.method = method

    def start(self) -> None:
        """Called when the phase starts, with the network as the previous phase left it."""

    def prepare(self) -> None:
        """Called before every iteration, including the first after a resume."""

    def end(self) -> None:
        """Called when the phase ends."""

    def denoising_steps(self, step: int, first: int) -> range:
        """The denoising steps of iteration `step` of the run; `first`: the iteration at which the phase started."""
        raise NotImplementedError  # defined by every objective

    def gradients(self, batch: dict) -> dict[str, Tensor]:
        """Add the gradients of a batch of `GroupDataset` to .grad; returns scalars to log, `loss` among them."""
        raise NotImplementedError  # defined by every objective

    def evaluations(self, steps: Sequence[int]) -> float:
        """The cost of an iteration over these denoising steps, in forward passes of one batch; a backward pass counts
        as two.
        """
        raise NotImplementedError  # defined by every objective

    def state_dict(self) -> dict[str, Any]:
        """What a run resumed inside the phase cannot recompute."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""


@dataclass
class Phase:
    """A number of iterations of one objective: a separate optimization, which restarts learning rates and annealing."""

    objective: Objective
    iterations: int
    rates: Any  # initial learning rates: `rounding` and `activation_scales`
