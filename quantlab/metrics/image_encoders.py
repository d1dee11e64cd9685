"""Features of CLIP (Radford et al. 2021) and of DINOv2 (Oquab et al. 2023), and the CLIP score (Hessel et al. 2021), by
transformers. The backbone decides the numbers: they compare only with those of the same.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.errors import RequestError
from quantlab.metrics.inception import to_inception


class _Encoder(nn.Module):
    """An encoder of transformers in `folder`, of one class of theirs, from safetensors alone."""

    model_class: str

    def __init__(self, folder: Path):
        super().__init__()
        import transformers

        given: dict[str, Any] = {"local_files_only": True}
        try:
            kind = getattr(transformers, self.model_class)
            self.network = kind.from_pretrained(folder, use_safetensors=True, **given).eval().requires_grad_(False)
            self.processor = transformers.AutoImageProcessor.from_pretrained(folder, **given)
            self._open(transformers, folder, given)
        except (OSError, ValueError, RuntimeError) as error:
            said = str(error).strip().partition("\n")[0]
            raise RequestError(f"{folder} is not all of a {self.model_class} ({said}); fetch it again") from error

    def _open(self, transformers: Any, folder: Path, given: dict[str, Any]) -> None:
        """What else it needs."""

    def pixels(self, images: Tensor) -> Tensor:
        """What the network takes, made by its own processor of 8-bit images; images: float in [-1, 1]."""
        levels = list(to_inception(images).cpu())
        return self.processor(images=levels, return_tensors="pt")["pixel_values"].to(self.network.device)


class Clip(_Encoder):
    model_class = "CLIPModel"

    @property
    def num_features(self) -> int:
        return self.network.config.projection_dim

    def _open(self, transformers: Any, folder: Path, given: dict[str, Any]) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **given)

    def features(self, images: Tensor) -> Tensor:
        """The projected ones, `[N, projection_dim]`; images: float `[N, 1 or 3, H, W]` in [-1, 1]."""
        network = self.network
        return network.visual_projection(network.vision_model(pixel_values=self.pixels(images)).pooler_output)

    @torch.inference_mode()
    def scores(self, images: Tensor, texts: list[str]) -> Tensor:
        """100 cos of each image and its text (its first tokens, as many as the network takes), float64 `[N]` on the
        CPU.
        """
        network = self.network
        most = network.config.text_config.max_position_embeddings
        words = self.tokenizer(texts, padding=True, truncation=True, max_length=most, return_tensors="pt")
        words = {name: words[name].to(network.device) for name in ("input_ids", "attention_mask")}
        projected = network.text_projection(network.text_model(**words).pooler_output)
        return (100 * nn.functional.cosine_similarity(self.features(images), projected)).cpu().double()


class Dino(_Encoder):
    model_class = "Dinov2Model"

    @property
    def num_features(self) -> int:
        return self.network.config.hidden_size

    def features(self, images: Tensor) -> Tensor:
        """Of the class token, `[N, hidden_size]`; images: float `[N, 1 or 3, H, W]` in [-1, 1]."""
        return self.network(pixel_values=self.pixels(images)).pooler_output
