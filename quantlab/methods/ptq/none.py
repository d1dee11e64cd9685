"""reconstruction=none: calibrated ranges and weights rounded to nearest; nothing is learned."""

from quantlab.methods.ptq.method import DiffusionPTQ
from quantlab.methods.ptq.objective import Phase

LABEL = "ranges only"


def phases(method: DiffusionPTQ) -> list[Phase]:
    return []
