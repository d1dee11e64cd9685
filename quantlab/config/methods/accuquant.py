"""What conf/method/accuquant.yaml may hold. The values' meaning is said there."""

from typing import Literal

from quantlab.config.effects import Acts
from quantlab.config.fields import Count, CountFromZero, CountOrAuto, Strict
from quantlab.config.methods.base import Curve
from quantlab.config.methods.diffusion_ptq import DiffusionPTQ, LearningRates


class Initialization(Strict):
    iterations: CountFromZero
    learning_rate: LearningRates


class AccuQuant(DiffusionPTQ, target="quantlab.methods.accuquant.AccuQuant"):
    effects = (*DiffusionPTQ.effects, Acts("method.keep_graphs", "method.gradient", ("copy", "exact")))
    curves = (Curve(("accuquant", "AccuQuant"), "#D55E00", linewidth=2.2, marker="o"),)
    iterations: Count
    initialization: Initialization
    gradient: Literal["copy", "exact", "bptt"]
    keep_graphs: CountOrAuto
    group_order: Literal["random", "sequential"]
    loss: Literal["mse", "l1"]
