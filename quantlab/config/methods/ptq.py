"""What conf/method/ptq.yaml may hold. The values' meaning is said there."""

from collections.abc import Mapping
from typing import Any, Literal

from quantlab.config.effects import Acts, only_if
from quantlab.config.fields import Count, files_in
from quantlab.config.methods.base import Curve, part_of
from quantlab.config.methods.diffusion_ptq import DiffusionPTQ

SHARED = ("group_errors", "method", "objective", "outcome", "quantized_denoiser", "requirements")  # of all baselines
BASELINES = files_in("methods/ptq", *SHARED)


class StepByStepPTQ(DiffusionPTQ, target="quantlab.methods.ptq.build_ptq"):
    variant_keys = ("reconstruction",)
    curves = (
        Curve(("ranges only", "ptq/none"), "#777777", linestyle="--"),
        Curve(("step", "ptq/step", "step by step"), "#0072B2", marker="s"),
        Curve(("block", "ptq/block", "block by block"), "#009E73", marker="^"),
    )
    effects = (
        *only_if(
            "method.reconstruction",
            tuple(name for name in BASELINES if name != "none"),
            "method.network_evaluations",
            "method.learn",
            "method.learning_rate",
            "method.rounding_regularizer",
            "method.batch_size",
        ),
        Acts("method.step_loss", "method.reconstruction", ("step",)),
        *DiffusionPTQ.effects,
    )
    reconstruction: Literal[BASELINES]
    network_evaluations: Count
    step_loss: Literal["state", "output"]

    @property
    def learns(self) -> bool:
        return self.reconstruction != "none"

    @classmethod
    def variant(cls, config: Mapping[str, Any]) -> str:
        return part_of(config, "method", "reconstruction") or ""
