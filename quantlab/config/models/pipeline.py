"""What conf/model/pipeline.yaml and the named pipelines may hold. The values' meaning is said there."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import model_validator

from quantlab.config.effects import GIVEN, Acts, only_if
from quantlab.config.fields import (
    Count,
    CountFromZero,
    ModelPath,
    NotNegative,
    OrNull,
    PromptsFile,
    Seed,
    Strict,
    Switch,
    Text,
)
from quantlab.config.models.base import AnyModel
from quantlab.config.models.diffusers_denoiser import FileSampler, SamplerName
from quantlab.config.sections import Parts

if TYPE_CHECKING:
    from quantlab.config.methods.base import Method


class PipelineGuidance(Strict):
    scale: OrNull[NotNegative]
    batched: Switch
    channels: OrNull[Count]
    true_scale: OrNull[NotNegative]


class PipelineSampler(FileSampler):
    steps: OrNull[Count]


class Prompts(Strict):
    file: OrNull[PromptsFile]
    count: OrNull[Count]
    seed: Seed
    negative: Text
    max_length: OrNull[Count]


class Pipeline(AnyModel, target="quantlab.models.pipelines.load_pipeline"):
    kind = "denoiser"
    task_kinds = ("generation",)
    effects = (
        Acts("model.sampler.eta", "model.sampler.name", ("ddim", "scheduler")),
        Acts("model.prompts.seed", "model.prompts.count", GIVEN),
        *only_if("model.sampler.name", get_args(SamplerName), "model.sampler.spacing", "model.sampler.clip_sample"),
    )
    path: OrNull[ModelPath]
    image_size: OrNull[Count]
    sampler: PipelineSampler
    guidance: PipelineGuidance
    null_class: OrNull[CountFromZero]
    prompts: Prompts
    compute: Literal["float32", "bfloat16", "float16"]
    offload: Literal["disk", "cpu", "none"]
    gradient_checkpointing: Switch

    @model_validator(mode="before")
    @classmethod
    def _without_recipe(cls, given: Any) -> Any:
        """method=pretrain puts its seed here; `misfit` says that it cannot."""
        return (
            {key: value for key, value in given.items() if key != "pretrain"} if isinstance(given, Mapping) else given
        )

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        if self.compute != "float32" and getattr(parts.method, "reconstruction", None) == "block":
            yield (
                f"model.compute: got {self.compute}, but method.reconstruction=block trains units by themselves, in"
                " float32, allowed: float32; type model.compute=float32"
            )

    def misfit(self, method: "Method") -> str | None:
        if method.name != "pretrain":
            return None
        return (
            f"model: got '{self.name}', a pipeline, whose denoiser is taken as it is, but method=pretrain trains one,"
            " allowed: model=ddim, model=ddpm_cifar10; type model=ddim, or another method"
        )
