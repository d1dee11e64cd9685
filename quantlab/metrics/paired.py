"""Image-by-image comparison of two models that started from the same noise: MSE, PSNR and SSIM.

torchmetrics is imported inside the functions: its import takes seconds, and most of a run does not need it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

PSNR_CAP_DB = 100.0
BATCH_SIZE = 256
PAIRED = ("psnr", "ssim", "mse_to_fp32")


def ssim_sigma(image_size: int) -> float:
    """Standard deviation, in pixels, of SSIM's Gaussian window: 1.5 (Wang et al. 2004) from 16 pixels on, below that
    0.5.

    The published window is 11 pixels wide and would cover all of an 8x8 image; at 0.5 it is 5 (our choice).
    """
    return 1.5 if image_size >= 16 else 0.5


def paired_protocol(image_size: int) -> dict[str, str | float]:
    """The protocol of `paired_values`, to be stored with its values."""
    return {
        "psnr": f"mean over images of the PSNR of each, capped at {PSNR_CAP_DB:g} dB",
        "psnr_ssim_range": "[0, 1] after clamping",
        "ssim_sigma": ssim_sigma(image_size),
    }


@torch.no_grad()
def paired_values(samples: Tensor, references: Tensor) -> dict[str, Tensor]:
    """`psnr` (dB), `ssim` (1 for equal images) and `mse_to_fp32` of each pair of images, float64 `[N]` on the CPU.

    `samples`, `references`: float `[N, C, H, W]`, nominally in [-1, 1], in the same order. The MSE is of the raw
    values. PSNR and SSIM are of images, clamped and mapped to [0, 1]; the PSNR of an image is capped at 100 dB (an MSE
    of 1e-10), so that it is finite for equal images.

    Raises:
        ValueError: the shapes differ.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    if samples.shape != references.shape or samples.ndim != 4:
        raise ValueError(f"shapes must be the same [N, C, H, W], got {list(samples.shape)}, {list(references.shape)}")
    sigma = ssim_sigma(min(samples.shape[-2:]))
    # float64: SSIM computes the variance of a flat region as the difference of two nearly equal numbers.
    sample, reference = samples.cpu().double(), references.cpu().double()
    mse = (sample - reference).square().mean(dim=(1, 2, 3))
    sample, reference = _as_shown(sample), _as_shown(reference)
    psnr = peak_signal_noise_ratio(sample, reference, data_range=1.0, dim=(1, 2, 3), reduction="none")
    ssim = structural_similarity_index_measure(sample, reference, sigma=sigma, data_range=1.0, reduction="none")
    return {"psnr": psnr.clamp(max=PSNR_CAP_DB), "ssim": ssim, "mse_to_fp32": mse}


def paired_metrics(samples: Tensor, references: Tensor) -> dict[str, float]:
    """`paired_summary` of `paired_values`."""
    parts = [paired_values(*pair) for pair in zip(samples.split(BATCH_SIZE), references.split(BATCH_SIZE))]
    return paired_summary({name: torch.cat([part[name] for part in parts]) for name in PAIRED})


def paired_summary(values: Mapping[str, Tensor]) -> dict[str, float]:
    """The means of `paired_values` of all images, float `[N]` each, and `mse_to_fp32_median`, the median over images of
    their mean squared error. A few walks that leave the data can be most of the mean; the median does not see them.
    """
    median = values["mse_to_fp32"].quantile(0.5).item()  # of an even number, midway between the middle two
    return {name: values[name].mean().item() for name in PAIRED} | {"mse_to_fp32_median": median}


def _as_shown(images: Tensor) -> Tensor:
    return (images.clamp(-1, 1) + 1) / 2
