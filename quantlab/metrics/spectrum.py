"""How far a set of images is from another in the energy of its spatial frequencies: seconds, no feature network, no
labels.

Noise, blur and walks that leave the image range all move energy between frequencies, which is how a denoiser that has
not learned shows. The comparison of radially averaged power spectra is that of Durall et al. (CVPR 2020, "Watch your
Up-Convolution"); that it is made one number in this way is our choice. It is no measure of quality: images with the
right spectrum may show nothing.
"""

import torch
from torch import Tensor

GREY_LEVEL = 2 / 255  # of 8-bit images in [-1, 1]: less energy than that of one is not seen


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
    """By what factor the band energies of two sets of images differ, either way: geometric mean over bands, 1 where
    they agree.

    samples, images: float32 `[N, C, S, S]` and `[M, C, S, S]`, nominally in [-1, 1], and clamped to it, as they are
    shown. NaN where one is not finite.
    """
    ours, theirs = (band_energies(one.clamp(-1, 1)) + GREY_LEVEL**2 for one in (samples, images))
    return float((ours / theirs).log().abs().mean().exp())
