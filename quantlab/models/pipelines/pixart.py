"""PixArt-alpha and PixArt-Sigma (Chen et al. 2023, 2024): a transformer over latents, T5's text with its mask."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantlab.models.pipelines.family import Family


class PixArt(Family):
    networks = ("PixArtTransformer2DModel",)

    @property
    def patch(self) -> int:  # type: ignore[override]
        return int(self.config.get("patch_size", 2))

    def encoding_options(self, image_size: int) -> dict[str, Any]:
        self.image_size = image_size
        own = self.default("max_sequence_length", 300 if self.found.kind == "PixArtSigmaPipeline" else 120)
        return {"max_sequence_length": self.section.prompts.max_length or own}

    def encode(
        self, pipeline: Any, prompts: list[str], negative: str, device: torch.device | str
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        rows, mask, null, null_mask = pipeline.encode_prompt(
            prompts, negative_prompt=negative, device=device, **self.encoding_options(self.image_size)
        )
        return (
            {"encoder_hidden_states": rows, "encoder_attention_mask": mask},
            {"encoder_hidden_states": null, "encoder_attention_mask": null_mask},
        )

    def arguments(self, rows: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """The 1024-pixel alpha is told the size of its images too (Chen et al. 2023, Sec. 2.3)."""
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.found.kind == "PixArtAlphaPipeline" and self.config.get("sample_size") == 128:
            mask = rows["encoder_attention_mask"]
            side = torch.full((len(mask), 2), float(self.image_size), device=mask.device)
            sizes = {"resolution": side, "aspect_ratio": torch.ones(len(mask), 1, device=mask.device)}
        return {**rows, "added_cond_kwargs": sizes}
