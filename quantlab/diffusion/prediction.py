"""What a denoising network outputs, and the common form that samplers use: the image x_0 and the noise eps in

    x_t = signal x_0 + noise eps

Of diffusion (Ho et al. 2020, Eq. 4) signal = sqrt(abar) and noise = sqrt(1 - abar), and the level of noise is given as
abar. Of a flow (Liu et al., ICLR 2023; Lipman et al., ICLR 2023) signal = 1 - sigma and noise = sigma, and the level is
sigma.

epsilon: the noise (Ho et al. 2020); v: sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022, Sec. 4); sample: the
image; flow: the velocity dx / dsigma = eps - x_0.
"""

from typing import TypeVar

from torch import Tensor

KINDS = ("epsilon", "v", "sample", "flow")
IMAGE = {kind: 0.0 if kind == "flow" else 1.0 for kind in KINDS}  # the level without noise

Level = TypeVar("Level", float, Tensor)


def signal_and_noise(kind: str, level: Level) -> tuple[Level, Level]:
    """The weights of x_0 and eps in x_t; level: abar, or of a flow sigma, in [0, 1], a number or a tensor."""
    return (1 - level, level) if kind == "flow" else (level**0.5, (1 - level) ** 0.5)


def image_and_noise(kind: str, output: Tensor, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """x_0 and eps of the network's `output` at x [N, C, H, W]; both of x's shape.

    level: abar in (0, 1), or of a flow sigma.
    """
    signal, noise = signal_and_noise(kind, level)
    if kind == "epsilon":
        return (x - noise * output) / signal, output
    if kind == "v":
        return signal * x - noise * output, signal * output + noise * x
    if kind == "flow":
        return x - noise * output, x + signal * output
    return output, (x - signal * output) / noise


def target(kind: str, x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """The training target for the image x0 and its noise [N, C, H, W]; level: abar, or of a flow sigma, broadcast
    against them.
    """
    if kind == "epsilon":
        return noise
    if kind == "flow":
        return noise - x0
    return level.sqrt() * noise - (1 - level).sqrt() * x0 if kind == "v" else x0


def noised(x0: Tensor, noise: Tensor, level: Tensor, kind: str = "epsilon") -> Tensor:
    """x_t for the image x0 and its noise [N, C, H, W]; level: as in `target`."""
    return level.sqrt() * x0 + (1 - level).sqrt() * noise if kind != "flow" else (1 - level) * x0 + level * noise
