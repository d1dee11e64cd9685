"""What conf/method/_diffusion_ptq.yaml may hold: what the methods share that quantize a denoiser after training."""

from collections.abc import Iterator
from typing import Literal

from quantlab.config.effects import Acts, only_if
from quantlab.config.fields import BatchSize, Count, Fraction, Images, NotNegative, Positive, Strict, Switch, at_most
from quantlab.config.methods.base import Method
from quantlab.config.sections import Parts


class Calibration(Strict):
    trajectories: Images
    range_samples: Images


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
    model_kinds = ("denoiser",)
    task_kinds = ("generation",)
    quantizer_kind = "post-training"
    quantizes = True
    judges_samples = True
    row_baselines = {"uncorrected": "without bias correction"}
    sampled_from = True
    divides_batches = True
    undrawn = ("network_evaluations",)
    effects = (
        Acts("method.learning_rate.rounding", "method.learn.rounding", (True,)),
        Acts("method.learning_rate.activation_scales", "method.learn.activation_scales", (True,)),
        *only_if("quantizer.weight.rounding", ("adaround",), "method.rounding_regularizer"),
    )
    group_size: Count
    batch_size: BatchSize
    calibration: Calibration
    learn: Learn
    learning_rate: LearningRates
    rounding_regularizer: RoundingRegularizer
    bias_correction: Literal["none", "channel", "pixel"]

    @property
    def learns(self) -> bool:
        """Whether there is more to it than calibrated ranges."""
        return True

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        calibration, regularizer = self.calibration, self.rounding_regularizer
        trajectories = ("method.calibration.trajectories", calibration.trajectories)
        yield from at_most("method.calibration.range_samples", calibration.range_samples, *trajectories)
        yield from at_most("method.batch_size", self.batch_size, *trajectories)
        if regularizer.beta_end > regularizer.beta_start:
            yield (
                f"method.rounding_regularizer.beta_end: got {regularizer.beta_end}, allowed: up to beta_start "
                f"({regularizer.beta_start}); type method.rounding_regularizer.beta_end={regularizer.beta_start}"
            )
        if parts.model is not None and parts.model.kind in self.model_kinds:
            steps = parts.model.sampler.steps  # null: what a pipeline takes by itself
            yield from at_most("method.group_size", self.group_size, "model.sampler.steps", steps or self.group_size)
        if parts.quantizer is not None and parts.quantizer.kind == self.quantizer_kind and self.learns:
            yield from self._nothing_to_learn(parts.quantizer)

    def _nothing_to_learn(self, quantizer) -> Iterator[str]:
        if quantizer.weight.bits == quantizer.activation.bits == 32:
            return  # another check says that nothing is quantized at all
        weight = self.learn.rounding and quantizer.weight.rounding != "nearest" and quantizer.weight.bits != 32
        if not (weight or (self.learn.activation_scales and quantizer.activation.bits != 32)):
            yield (
                "method.learn: nothing to learn: rounding needs quantized weights and"
                " quantizer.weight.rounding=adaround or straight_through, activation_scales quantized activations; type"
                " method.learn.rounding=true, or method=ptq method.reconstruction=none for calibrated ranges only"
            )
