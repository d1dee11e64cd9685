"""What makes images of latents: a pipeline's autoencoder, loaded when it is asked for and let go of afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from quantlab.diffusion.rollout import Progress
from quantlab.models.diffusers_directory import NetworkFolder
from quantlab.models.pipelines import networks

AUTOENCODERS = ("AutoencoderKL", "VQModel")
PIXELS_AT_ONCE = 2**18  # of the images of one batch: decoders need some hundred times the memory of what they make


class LatentDecoder:
    """Images of latents [N, C, h, w]: decode(x / scaling_factor + shift_factor), or with the mean and deviation of each
    channel, where the config has those.
    """

    def __init__(self, found: NetworkFolder):
        self.found, self.config = found, found.network
        self.name = str(self.config["_class_name"])
        self.factor: int = 2 ** (len(self.config.get("block_out_channels", (64,))) - 1)  # pixels a latent, on a side
        self.is_kept, self.network = False, None

    @torch.no_grad()
    def __call__(self, x: Tensor, device: torch.device | str, progress: Progress) -> Tensor:
        """float32 [N, 3, H, W], nominally in [-1, 1], in a file that is mapped into memory; x: float32 [N, C, h, w]."""
        network = self.network if self.network is not None else self._loaded()
        if self.is_kept:
            self.network = network
        network.to(device)
        height, width = (side * self.factor for side in x.shape[-2:])
        images = on_disk((len(x), int(self.config.get("out_channels", 3)), height, width))
        size = max(1, PIXELS_AT_ONCE // (height * width))
        for first in progress(range(0, len(x), size)):
            rows = slice(first, first + size)
            images[rows] = network.decode(self.unscaled(x[rows].to(device))).sample.float().cpu()
        return images

    def _loaded(self) -> nn.Module:
        network = networks.build(self.found, self.name)
        networks.load(network, self.found)
        return network

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, the network is loaded once, at the first call, and let go of at the end."""
        self.is_kept = True
        try:
            yield
        finally:
            self.is_kept, self.network = False, None

    def unscaled(self, x: Tensor) -> Tensor:
        config = self.config
        scale, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor") or 0.0
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            mean, std = (torch.tensor(one, device=x.device).view(1, -1, 1, 1) for one in (mean, std))
            return x * std / scale + mean
        return x / scale + shift


def on_disk(shape: tuple[int, ...]) -> Tensor:
    """An empty float32 tensor in a file that is gone with it (in TMPDIR)."""
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))
