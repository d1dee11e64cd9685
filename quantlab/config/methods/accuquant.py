"""What conf/method/accuquant.yaml may hold. The values' meaning is said there."""

from typing import Literal

from quantlab.config.fields import Count, CountFromZero, Strict
from quantlab.config.methods.base import Curve
from quantlab.config.methods.diffusion_ptq import DiffusionPTQ, LearningRates


class Initialization(Strict):
    iterations: CountFromZero
    learning_rate: LearningRates


class AccuQuant(DiffusionPTQ, target="quantlab.methods.accuquant.AccuQuant"):
    curves = (Curve(("accuquant",), "#D55E00", linewidth=2.2, marker="o"),)
    iterations: Count
    initialization: Initialization
    gradient: Literal["copy", "exact", "bptt"]
    group_order: Literal["random", "sequential"]
    loss: Literal["mse", "l1"]
