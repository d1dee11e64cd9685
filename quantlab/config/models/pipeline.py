"""What conf/model/pipeline.yaml and the named pipelines may hold. The values' meaning is said there."""

from typing import TYPE_CHECKING

from quantlab.config.fields import Count, CountFromZero, File, ModelPath, NotNegative, OrNull, Strict, Switch, Text
from quantlab.config.models.base import AnyModel
from quantlab.config.models.diffusers_denoiser import Sampler

if TYPE_CHECKING:
    from quantlab.config.methods.base import Method


class PipelineGuidance(Strict):
    scale: OrNull[NotNegative]
    batched: Switch
    channels: OrNull[Count]


class Prompts(Strict):
    file: OrNull[File]
    negative: Text
    max_length: OrNull[Count]


class Pipeline(AnyModel, target="quantlab.models.pipelines.load_pipeline"):
    kind = "denoiser"
    task_kinds = ("generation",)
    path: OrNull[ModelPath]
    image_size: OrNull[Count]
    sampler: Sampler
    guidance: PipelineGuidance
    null_class: OrNull[CountFromZero]
    prompts: Prompts

    def misfit(self, method: "Method") -> str | None:
        if method.name != "pretrain":
            return None
        return (
            f"model: got '{self.name}', a pipeline, whose denoiser is taken as it is, but method=pretrain trains one,"
            " allowed: model=ddim, model=ddpm_cifar10; type model=ddim, or another method"
        )
