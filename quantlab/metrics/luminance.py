"""PSNR and SSIM on luminance, as reported in the super-resolution literature.

As in common evaluation scripts, the network's output is rounded to 8 bits, RGB becomes the luminance Y of ITU-R BT.601
in 16 to 235 (MATLAB's rgb2ycbcr), which is not rounded again, a border is cropped, and the range is 255. SSIM is Wang
et al. 2004: a Gaussian window of 11 pixels, sigma 1.5, evaluated only where it lies inside the image.
"""

import torch
from torch import Tensor

from quantlab.metrics.paired import PSNR_CAP_DB

RANGE = 255.0
SSIM_WINDOW = 11


def luminance(images: Tensor) -> Tensor:
    """Y of BT.601: float RGB `[N, 3, H, W]` in [0, 1] to `[N, 1, H, W]` in 16 (black) to 235 (white), of the same
    dtype.
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=images.dtype, device=images.device)
    return 16 + (images * weights.view(3, 1, 1)).sum(dim=1, keepdim=True)


def luminance_metrics(restored: Tensor, originals: Tensor, border: int) -> dict[str, Tensor]:
    """`psnr_y` (dB, at most 100) and `ssim` (1 for equal images) of each image, float32 `[N]`.

    restored, originals: float RGB `[N, 3, H, W]`, nominally in [0, 1]; `restored` is clamped and rounded to 8 bits,
    `originals` are assumed to have 8 bits. border: pixels cropped on every side; at least 11 pixels must remain on both
    axes.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    restored = (restored * 255).round().clamp(0, 255) / 255
    inside = slice(border, -border if border else None)
    # float32 gives the SSIM of a photo to 1e-5 and of a flat image to 1e-3; in float64 the window's convolution over a
    # photo takes GBs on a CPU.
    y, reference = (luminance(images.float())[..., inside, inside] for images in (restored, originals))
    psnr = peak_signal_noise_ratio(y, reference, data_range=RANGE, dim=(1, 2, 3), reduction="none")
    ssim = structural_similarity_index_measure(y, reference, sigma=1.5, data_range=RANGE, reduction="none")
    return {"psnr_y": psnr.clamp(max=PSNR_CAP_DB).reshape(-1), "ssim": ssim.reshape(-1)}
