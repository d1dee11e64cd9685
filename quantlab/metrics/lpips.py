"""LPIPS (Zhang et al. 2018), the distance of two images in the features of a classifier, by torchmetrics."""

from pathlib import Path

import torch
from torch import Tensor, nn

from quantlab.errors import RequestError
from quantlab.metrics.weights import NO_WEIGHTS

# By network, torchvision's name of it and the least pixels that it takes on a side
LPIPS_NETWORKS = {"alex": ("AlexNet", 31), "vgg": ("VGG16", 16), "squeeze": ("SqueezeNet1_1", 17)}


def weights_url(lpips_network: str) -> str:
    import torchvision

    return getattr(torchvision.models, f"{LPIPS_NETWORKS[lpips_network][0]}_Weights").DEFAULT.url


class Lpips(nn.Module):
    """network: a key of `LPIPS_NETWORKS`, whose weights lie in `file`, where torch's hub keeps them."""

    def __init__(self, network: str, file: Path):
        super().__init__()
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        try:
            self.network = LearnedPerceptualImagePatchSimilarity(net_type=network).net
        except NO_WEIGHTS as error:
            raise RequestError(
                f"{file} is damaged, or not the weights of {LPIPS_NETWORKS[network][0]} ({type(error).__name__});"
                " remove it, and task.evaluation.download=true fetches it again"
            ) from error

    @torch.inference_mode()
    def forward(self, samples: Tensor, references: Tensor) -> Tensor:
        """float64 `[N]` on the CPU; images: float `[N, 1 or 3, H, W]`, clamped to [-1, 1]."""
        pair = (one.clamp(-1, 1).expand(-1, 3, -1, -1) for one in (samples, references))
        return self.network(*pair).reshape(-1).cpu().double()
