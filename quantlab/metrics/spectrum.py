"""How far two sets of images differ in the energies of their spatial frequencies: takes seconds and needs no feature
network and no labels.

Noise, blur and walks that leave the image range all shift energy between frequencies, which reveals an untrained
denoiser. Comparing radially averaged power spectra follows Durall et al. (CVPR 2020, "Watch your Up-Convolution"); the
reduction to one number is our choice. It does not measure quality: images with the right spectrum may show nothing.
"""

import torch
from torch import Tensor

GREY_LEVEL = 2 / 255  # of 8-bit images in [-1, 1]; energies below that of one level are ignored


def band_energies(images: Tensor) -> Tensor:
    """Mean energy of the frequencies at each whole distance from zero, float [bands], lowest first; images float
    [N, C, S, S].
    """
    size = images.shape[-1]
    power = torch.fft.fft2(images, norm="ortho").abs().square().mean(dim=(0, 1))
    frequency = torch.fft.fftfreq(size, d=1 / size)
    band = (frequency[:, None] ** 2 + frequency**2).sqrt().round().long().flatten()
    sums = torch.zeros(int(band.max()) + 1).index_add(0, band, power.flatten())
    return sums / band.bincount()


def spectrum_ratio(samples: Tensor, images: Tensor) -> float:
    """The factor by which the band energies of two sets of images differ, in either direction: geometric mean over
    bands, 1 if they agree.

    samples, images: float32 `[N, C, S, S]` and `[M, C, S, S]`, nominally in [-1, 1] and clamped to it. NaN if any value
    is not finite.
    """
    return ratio_of_energies(band_energies(samples.clamp(-1, 1)), images)


def ratio_of_energies(energies: Tensor, images: Tensor) -> float:
    """As `spectrum_ratio`, of samples whose band energies, float `[bands]`, are known."""
    ours, theirs = (one + GREY_LEVEL**2 for one in (energies, band_energies(images.clamp(-1, 1))))
    return float((ours / theirs).log().abs().mean().exp())
