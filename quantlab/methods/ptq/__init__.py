"""method=ptq: the baselines that AccuQuant is compared with. One file per value of method.reconstruction, which gives a
label and the phases.

They share AccuQuant's quantizers, calibration trajectories, activation scales per group, optimizer, regulariser and
annealing, and the budget of network evaluations.
"""

from importlib import import_module

from quantlab.methods.base import RunContext
from quantlab.methods.ptq.method import DiffusionPTQ
from quantlab.methods.ptq.objective import Phase


class PTQ(DiffusionPTQ):
    """The baseline selected by `section.reconstruction`."""

    def __init__(self, section, context: RunContext):
        self.baseline = import_module(f"quantlab.methods.ptq.{section.reconstruction}")
        self.label = self.baseline.LABEL
        super().__init__(section, context)

    def make_phases(self) -> list[Phase]:
        return self.baseline.phases(self)


build_ptq = PTQ  # the name in configs of finished runs
