"""What conf/method/*.yaml may hold, and what each method works on. The values' meaning is said there."""

from typing import ClassVar, Literal

from pydantic import Field

from quantlab.config.fields import (
    Count, Directory, Fraction, Name, NotNegative, OrNull, Positive, Section, Strict, Switch,
)


class Method(Section):
    """`model_kind` and `task_kind`: what the method works on (None: anything); `quantizes`: whether it needs bits."""

    group = "method"
    model_kind: ClassVar[str | None] = None
    task_kind: ClassVar[str | None] = None
    quantizes: ClassVar[bool] = False
    name: Name


class Calibration(Strict):
    trajectories: Count
    range_samples: Count


class Learn(Strict):
    rounding: Switch
    activation_scales: Switch


class LearningRates(Strict):
    rounding: Positive
    activation_scales: Positive


class RoundingRegularizer(Strict):
    weight: NotNegative
    beta_start: Positive
    beta_end: Positive
    warmup: Fraction


class DiffusionPTQ(Method):
    model_kind = "denoiser"
    task_kind = "generation"
    quantizes = True
    group_size: Count
    batch_size: Count
    calibration: Calibration
    learn: Learn
    learning_rate: LearningRates
    rounding_regularizer: RoundingRegularizer


class AccuQuant(DiffusionPTQ):
    target: Literal["quantlab.methods.accuquant.AccuQuant"] = Field(alias="_target_")
    iterations: Count
    gradient: Literal["copy", "exact", "bptt"]
    group_order: Literal["random", "sequential"]
    loss: Literal["mse", "l1"]


class StepByStepPTQ(DiffusionPTQ):
    target: Literal["quantlab.methods.ptq.build_ptq"] = Field(alias="_target_")
    reconstruction: Literal["none", "step", "block"]
    network_evaluations: Count
    step_loss: Literal["state", "output"]


class Pretrain(Method):
    target: Literal["quantlab.methods.pretrain.Pretrain"] = Field(alias="_target_")


class Sample(Method):
    task_kind = "generation"
    target: Literal["quantlab.methods.sample.Sample"] = Field(alias="_target_")
    run: OrNull[Directory]
    samples: Count
