"""UNets without text: of pixels (DDPM, DDIM) and of latents (LDM-4 and LDM-8 with VQ or KL decoders, Rombach et al.
2022), unconditional or conditioned on classes.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.diffusion.conditioning import Classes, Condition, Conditioning, Guidance
from quantlab.errors import RequestError
from quantlab.models import weights
from quantlab.models.diffusers_directory import KEY, fetch
from quantlab.models.pipelines.directory import PipelineDirectory
from quantlab.models.pipelines.family import Family
from quantlab.run.state import tensors_digest

EMBEDDER = "class_embedder"


class Unconditional(Family):
    part = "unet"
    networks = ("UNet2DModel",)
    autoencoder = None

    def output(self, network: nn.Module, x: Tensor, t: Tensor, given: Mapping[str, Any]) -> Tensor:
        output: Tensor = network(x, t, return_dict=False, **given)[0]
        return output

    def condition(self, image_size: int) -> Conditioning | None:
        guidance, count = self.guidance(), self.config.get("num_class_embeds")
        if self.config.get("class_embed_type") is not None:
            raise RequestError(
                f"{KEY}: {self.folder.folder / 'config.json'}: the network is conditioned on more than a class"
                f" (class_embed_type={self.config['class_embed_type']}); give another model.path"
            )
        if count is None and guidance.scale != 1:
            raise RequestError(
                f"model.guidance.scale: got {guidance.scale}, but the network of {self.found.root} is unconditional,"
                " allowed: 1; type model.guidance.scale=1"
            )
        if count is None:
            return None
        return self.classes(count, guidance)

    def classes(self, count: int, guidance: Guidance) -> Classes:
        """Of a network with that many; model.null_class is the one that stands for none."""
        null = self.section.null_class
        if null is not None and null >= count:
            raise RequestError(
                f"model.null_class: got {null}, allowed: 0 to {count - 1}, one of the network's {count} classes; type"
                f" model.null_class={count - 1}"
            )
        if null is None and guidance.scale != 1:
            raise RequestError(
                f"model.guidance.scale: got {guidance.scale}, which needs a class that stands for none, allowed: 1, or"
                f" model.null_class; type model.null_class={count - 1} if the last of the {count} classes is that"
            )
        return Classes(count if null is None else count - 1, null, guidance)

    def guidance(self) -> Guidance:
        section = self.section.guidance
        return Guidance(1.0 if section.scale is None else section.scale, section.batched, section.channels)


class Latent(Unconditional):
    """LDMPipeline calls its decoder `vqvae`, also where it is one with KL regularization. A UNet2DConditionModel is
    told the class as LDM-4 on ImageNet is (Rombach et al. 2022, Sec. 3.3): its embedding, in `class_embedder`, is all
    that cross-attention attends to.
    """

    networks = ("UNet2DModel", "UNet2DConditionModel")
    autoencoder = "vqvae"

    def __init__(self, found: PipelineDirectory, section: Any):
        if "vqvae" not in found.parts and "vae" in found.parts:
            self.autoencoder = "vae"  # type: ignore[misc]
        super().__init__(found, section)

    def condition(self, image_size: int) -> Conditioning | None:
        if self.config["_class_name"] == "UNet2DModel":
            return super().condition(image_size)
        table = self._class_embeddings()
        found = self.classes(len(table), self.guidance())
        return EmbeddedClasses(found.count, found.null_class, found.guidance, embeddings=table)

    def _class_embeddings(self) -> Tensor:
        """float32 [classes, C]. Raises RequestError where they are not there, or not of the network's size."""
        folder, width = self.found.root / EMBEDDER, self.config.get("cross_attention_dim", 1280)
        if self.found.hub is not None:
            fetch(self.found.hub, (f"{EMBEDDER}/*.safetensors",), revision=self.found.root.name)
        if not any(folder.glob("*.safetensors")):
            raise RequestError(
                f"{KEY}: the network of {self.found.root} attends to the embedding of a class, but there is no"
                f" {EMBEDDER}/*.safetensors with the table of them, [classes, {width}]; of a checkpoint of"
                " latent-diffusion python scripts/convert_latent_diffusion.py makes the whole directory"
            )
        tensors, _ = weights.read(folder, KEY)
        tables = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 2 and tensor.shape[1] == width}
        if len(tables) != 1 or len(tensors) != 1:
            held = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
            raise RequestError(
                f"{KEY}: {folder} holds {held}, allowed: one table of embeddings, [classes, {width}]; give that of this"
                " network"
            )
        return next(iter(tables.values())).float()


@dataclass(frozen=True)
class EmbeddedClasses(Classes):
    """Classes of which the network is told their embeddings, the rows of a table: float32 [classes, C]."""

    embeddings: Tensor = field(default_factory=lambda: torch.zeros(0, 0), repr=False)

    def arguments(self, condition: Condition) -> Mapping[str, Any]:
        labels = condition["class_labels"]
        return {"encoder_hidden_states": self.embeddings[labels.cpu()][:, None].to(labels.device)}

    def facts(self) -> dict[str, Any]:
        facts = {name: value for name, value in vars(self).items() if name != "embeddings"}
        return facts | {
            "guidance": dataclasses.asdict(self.guidance),
            "embeddings": tensors_digest({"embeddings": self.embeddings}),
        }
