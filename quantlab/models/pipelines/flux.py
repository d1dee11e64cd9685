"""Flux (Black Forest Labs 2024): a flow over latents as a sequence; its guidance is an input of the network, learned by
distillation, so that a step is one pass. What diffusers calls true guidance, in two passes, comes on top.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.diffusion.conditioning import Guidance
from quantlab.diffusion.latents import packed, unpacked
from quantlab.errors import RequestError
from quantlab.models.pipelines.directory import PipelineDirectory
from quantlab.models.pipelines.family import Family, dynamic_shift
from quantlab.models.pipelines.prompts import Prompts

OWN_SIDE = 128  # latents on a side: the network's config does not say it, the pipeline does


class Flux(Family):
    networks = ("FluxTransformer2DModel",)
    patch = 2
    time_scale = 0.001

    def __init__(self, found: PipelineDirectory, section: Any):
        super().__init__(found, section)
        self.is_guided = bool(self.config.get("guidance_embeds"))

    @property
    def channels(self) -> int:
        return int(self.config.get("in_channels", 64)) // 4

    @property
    def outputs(self) -> int:
        return int(self.config.get("out_channels") or self.config.get("in_channels", 64)) // 4

    @property
    def own_side(self) -> int:
        return OWN_SIDE

    def timesteps(self, scheduler: Mapping[str, Any], side: int, steps: int) -> dict[str, Any]:
        sigmas = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).tolist()
        given = {} if scheduler.get("use_flow_sigmas") else {"sigmas": sigmas}
        return given | {"mu": dynamic_shift(scheduler, (side // 2) ** 2, 1.15)}

    def guidance(self) -> Guidance:
        """That by two passes, true guidance."""
        section = self.section.guidance
        return Guidance(1.0 if section.true_scale is None else section.true_scale, section.batched, section.channels)

    @property
    def embedded_scale(self) -> float:
        own = super().guidance().scale
        return float(own)

    def prompts(self, image_size: int) -> Prompts:
        if not self.is_guided and self.section.guidance.scale not in (None, 1):
            raise RequestError(
                f"model.guidance.scale: got {self.section.guidance.scale}, but {self.found.root} has no embedding of"
                " guidance (guidance_embeds), allowed: 1; type model.guidance.scale=1"
            )
        return super().prompts(image_size)

    def encoding_options(self, image_size: int) -> dict[str, Any]:
        own = self.default("max_sequence_length", 512)
        chosen = {"max_sequence_length": self.section.prompts.max_length or own}
        return chosen | ({"with_negative": True} if self.guidance().scale != 1 else {})

    def encode(
        self, pipeline: Any, prompts: list[str], negative: str, device: torch.device | str
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Where nothing leads away from the negative prompt, its row is that of the first."""

        def encoded(texts: list[str]) -> dict[str, Tensor]:
            length = self.encoding_options(0)["max_sequence_length"]
            rows, pooled, _ = pipeline.encode_prompt(texts, None, device=device, max_sequence_length=length)
            return {"encoder_hidden_states": rows, "pooled_projections": pooled}

        found = encoded(prompts)
        return found, encoded([negative]) if self.guidance().scale != 1 else found

    def output(self, network: nn.Module, x: Tensor, t: Tensor, given: Mapping[str, Any]) -> Tensor:
        height, width = x.shape[-2:]
        guidance = torch.full((len(x),), self.embedded_scale, device=x.device) if self.is_guided else None
        output: Tensor = network(
            hidden_states=packed(x),
            timestep=t.float() / 1000,
            guidance=guidance,
            txt_ids=torch.zeros(given["encoder_hidden_states"].shape[1], 3, device=x.device),
            img_ids=positions(height // 2, width // 2).to(x.device),
            return_dict=False,
            **given,
        )[0]
        return unpacked(output, height, width)


def positions(height: int, width: int) -> Tensor:
    """Row and column of each token, float [height * width, 3]; the first number is always 0."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).float()
