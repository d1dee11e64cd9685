"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022), and SDXL (Podell et al. 2023)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.models.pipelines.family import Family


class StableDiffusion(Family):
    part = "unet"
    networks = ("UNet2DConditionModel",)

    def scheduler(self, config: dict[str, Any]) -> dict[str, Any]:
        """The pipeline sets two values right that early files have otherwise."""
        changed = {"steps_offset": 1} if config.get("steps_offset", 1) != 1 else {}
        return config | changed | ({"clip_sample": False} if config.get("clip_sample") else {})

    def output(self, network: nn.Module, x: Tensor, t: Tensor, given: Mapping[str, Any]) -> Tensor:
        output: Tensor = network(x, t, return_dict=False, **given)[0]
        return output

    def encode(
        self, pipeline: Any, prompts: list[str], negative: str, device: torch.device | str
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        rows, null = pipeline.encode_prompt(prompts, device, 1, True, negative_prompt=[negative] * len(prompts))
        return {"encoder_hidden_states": rows}, {"encoder_hidden_states": null}


class SDXL(StableDiffusion):
    """Two text encoders, of the second also a pooled embedding, and the sizes of images as numbers."""

    def scheduler(self, config: dict[str, Any]) -> dict[str, Any]:
        return config

    def encoding_options(self, image_size: int) -> dict[str, Any]:
        self.image_size = image_size
        return {"zeros": self.found.index.get("force_zeros_for_empty_prompt", True)}

    def encode(
        self, pipeline: Any, prompts: list[str], negative: str, device: torch.device | str
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No negative prompt is zeros, where the pipeline says so, and not the embedding of no words."""
        given = [negative] * len(prompts) if negative else None
        rows, null, pooled, pooled_null = pipeline.encode_prompt(
            prompts, device=device, do_classifier_free_guidance=True, negative_prompt=given
        )
        return (
            {"encoder_hidden_states": rows, "text_embeds": pooled},
            {"encoder_hidden_states": null, "text_embeds": pooled_null},
        )

    def arguments(self, rows: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """time_ids: original size, corner of the crop, target size (Podell et al. 2023, Sec. 2.2)."""
        pooled, size = rows["text_embeds"], float(self.image_size)
        sizes = torch.tensor([[size, size, 0, 0, size, size]], device=pooled.device).expand(len(pooled), -1)
        return {
            "encoder_hidden_states": rows["encoder_hidden_states"],
            "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes},
        }
