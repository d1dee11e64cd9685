"""What the YAMLs of denoisers may hold. The values' meaning is said there."""

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from quantlab.config.effects import Acts, only_if
from quantlab.config.fields import (
    ClosedFraction,
    Count,
    Fraction,
    Layers,
    ModelPath,
    NotNegative,
    OpenFraction,
    Positive,
    Strict,
    Switch,
    Timesteps,
    Width,
    at_most,
    files_in,
)
from quantlab.config.models.base import Model
from quantlab.config.sections import Parts


class UNet(Strict):
    block_out_channels: Annotated[list[Width], Field(min_length=1)]
    attention: list[Switch]
    layers_per_block: Layers
    attention_head_dim: Width
    norm_num_groups: Width
    dropout: Fraction


class NoiseSchedule(Strict):
    train_timesteps: Timesteps
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    beta_start: OpenFraction
    beta_end: OpenFraction


SamplerName = Literal[files_in("diffusion/samplers", "base")]
SamplerOfFile = Literal[(*files_in("diffusion/samplers", "base"), "scheduler")]


class Sampler(Strict):
    name: SamplerName
    steps: Count
    eta: ClosedFraction
    spacing: Literal["uniform", "trailing", "linspace", "quadratic"]
    shift: Positive
    clip_sample: Switch


class FileSampler(Sampler):
    """Of a model that may have a scheduler file."""

    name: SamplerOfFile


class Guidance(Strict):
    scale: NotNegative
    batched: Switch


class Denoiser(Model):
    kind = "denoiser"
    task_kinds = ("generation",)
    effects = (
        Acts("model.sampler.eta", "model.sampler.name", ("ddim", "scheduler")),
        Acts("model.sampler.shift", "model.prediction", ("flow",)),
        *only_if("model.sampler.name", get_args(SamplerName), "model.sampler.spacing", "model.sampler.clip_sample"),
        *only_if("model.class_conditional", (True,), "model.guidance", "model.class_dropout"),
    )


class DDIM(Denoiser, target="quantlab.models.diffusers_denoiser.build_ddim"):
    unet: UNet
    noise_schedule: NoiseSchedule
    prediction: Literal["epsilon", "v", "sample", "flow"]
    class_conditional: Switch
    class_dropout: ClosedFraction
    sampler: Sampler
    guidance: Guidance

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        unet, schedule = self.unet, self.noise_schedule
        yield from at_most(
            "model.sampler.steps", self.sampler.steps, "model.noise_schedule.train_timesteps", schedule.train_timesteps
        )
        if schedule.beta_start > schedule.beta_end:
            yield (
                f"model.noise_schedule.beta_start: got {schedule.beta_start}, allowed: up to beta_end "
                f"({schedule.beta_end}); type model.noise_schedule.beta_start={schedule.beta_end}"
            )
        if len(unet.attention) != len(unet.block_out_channels):
            switches = ",".join(["false"] * len(unet.block_out_channels))
            yield (
                f"model.unet.attention: got {len(unet.attention)} entries, allowed: one per entry of block_out_channels"
                f" ({len(unet.block_out_channels)}); type model.unet.attention=[{switches}]"
            )
        for channels in unet.block_out_channels:
            if channels % unet.norm_num_groups:
                yield (
                    f"model.unet.block_out_channels: got {channels}, allowed: multiples of norm_num_groups "
                    f"({unet.norm_num_groups}); type model.unet.norm_num_groups=1 or other channels"
                )
        for channels, attends in zip(unet.block_out_channels, unet.attention):
            if attends and channels % unet.attention_head_dim:
                yield (
                    f"model.unet.attention_head_dim: got {unet.attention_head_dim}, allowed: divisors of the channels "
                    f"that attend ({channels}); type model.unet.attention_head_dim={channels}"
                )


class PretrainedDenoiser(Denoiser, target="quantlab.models.diffusers_denoiser.load_pretrained"):
    path: ModelPath
    sampler: FileSampler
    guidance: Guidance
