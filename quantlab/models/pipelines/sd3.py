"""Stable Diffusion 3 (Esser et al., ICML 2024): a flow, three text encoders of which any may be absent, guidance in two
passes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantlab.models.pipelines.family import Family, dynamic_shift


class SD3(Family):
    networks = ("SD3Transformer2DModel",)

    @property
    def patch(self) -> int:  # type: ignore[override]
        return int(self.config.get("patch_size", 2))

    def timesteps(self, scheduler: Mapping[str, Any], side: int, steps: int) -> dict[str, Any]:
        if not scheduler.get("use_dynamic_shifting"):
            return {}
        return {"mu": dynamic_shift(scheduler, (side // self.patch) ** 2, 1.16)}

    def encoding_options(self, image_size: int) -> dict[str, Any]:
        return {"max_sequence_length": self.section.prompts.max_length or self.default("max_sequence_length", 256)}

    def encode(
        self, pipeline: Any, prompts: list[str], negative: str, device: torch.device | str
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        rows, null, pooled, pooled_null = pipeline.encode_prompt(
            prompts,
            None,
            None,
            device=device,
            do_classifier_free_guidance=True,
            negative_prompt=[negative] * len(prompts),
            **self.encoding_options(0),
        )
        return (
            {"encoder_hidden_states": rows, "pooled_projections": pooled},
            {"encoder_hidden_states": null, "pooled_projections": pooled_null},
        )
