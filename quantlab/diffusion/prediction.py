"""What a denoising network outputs, and the common form that samplers use: the image x_0 and the noise eps in

    x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps

epsilon: the noise (Ho et al. 2020); v: sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022, Sec. 4); sample: the
image.
"""

from torch import Tensor

KINDS = ("epsilon", "v", "sample")


def image_and_noise(kind: str, output: Tensor, x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """x_0 and eps of the network's `output` at x [N, C, H, W] with abar = `alpha` in (0, 1); both of x's shape."""
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    if kind == "epsilon":
        return (x - noise * output) / signal, output
    if kind == "v":
        return signal * x - noise * output, signal * output + noise * x
    return output, (x - signal * output) / noise


def target(kind: str, x0: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """The training target for the image x0 and its noise [N, C, H, W]; alpha: abar, broadcast against them."""
    if kind == "epsilon":
        return noise
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * x0 if kind == "v" else x0


def noised(x0: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """x_t for the image x0 and its noise [N, C, H, W]; alpha: abar, broadcast against them."""
    return alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
