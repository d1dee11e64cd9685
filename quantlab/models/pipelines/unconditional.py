"""UNets without text: of pixels (DDPM, DDIM) and of latents (LDM-4 and LDM-8 with VQ or KL decoders, Rombach et al.
2022), unconditional or conditioned on classes.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from quantlab.diffusion.conditioning import Classes, Conditioning, Guidance
from quantlab.errors import RequestError
from quantlab.models.diffusers_directory import KEY
from quantlab.models.pipelines.directory import PipelineDirectory
from quantlab.models.pipelines.family import Family


class Unconditional(Family):
    part = "unet"
    networks = ("UNet2DModel",)
    autoencoder = None

    def output(self, network: nn.Module, x: Tensor, t: Tensor, given: Mapping[str, Any]) -> Tensor:
        output: Tensor = network(x, t, return_dict=False, **given)[0]
        return output

    def condition(self, image_size: int) -> Conditioning | None:
        guidance, count, null = self.guidance(), self.config.get("num_class_embeds"), self.section.null_class
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
    """LDMPipeline calls its decoder `vqvae`, also where it is one with KL regularization."""

    autoencoder = "vqvae"

    def __init__(self, found: PipelineDirectory, section: Any):
        if "vqvae" not in found.parts and "vae" in found.parts:
            self.autoencoder = "vae"  # type: ignore[misc]
        super().__init__(found, section)
