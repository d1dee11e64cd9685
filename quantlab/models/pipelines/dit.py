"""DiT (Peebles and Xie 2023): classes, latents, a learned variance.

diffusers guides all latent channels. The released code guides the first three of four and says that it does so only to
reproduce its numbers: model.guidance.channels=3.
"""

from quantlab.diffusion.conditioning import Classes, Conditioning
from quantlab.models.pipelines.family import Family


class DiT(Family):
    networks = ("DiTTransformer2DModel",)

    @property
    def fixed_side(self) -> int:
        return self.own_side

    def condition(self, image_size: int) -> Conditioning | None:
        classes = int(self.config.get("num_embeds_ada_norm") or 1000)
        return Classes(classes, classes, self.guidance())
