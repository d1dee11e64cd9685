"""Pairs of a low-resolution image and its original: bicubic resampling, training tiles, random patches, augmentation.

The low-resolution image is made once from the whole original and rounded to 8 bits, as in data sets that ship both. The
bicubic kernel is Keys's with a = -0.5, widened by the scale against aliasing, like MATLAB's imresize but with torch's
arithmetic, so the last bits may differ.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

Pair = tuple[Tensor, Tensor]  # low uint8 [3, h, w], high uint8 [3, scale h, scale w]


def downsample(images: Tensor, scale: int) -> Tensor:
    """uint8 `[..., C, H, W]` to uint8 `[..., C, H / scale, W / scale]`; H and W are multiples of `scale`."""
    batch = images.reshape(-1, *images.shape[-3:]).float()
    size = [side // scale for side in images.shape[-2:]]
    low = (
        F.interpolate(batch, size, mode="bicubic", antialias=True, align_corners=False)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
    )
    return low.reshape(*images.shape[:-2], *size)


def pair(original: Tensor, scale: int) -> Pair:
    """uint8 `[3, H, W]`, without up to `scale` - 1 last rows and columns, and its low-resolution image."""
    height, width = (side - side % scale for side in original.shape[-2:])
    high = original[:, :height, :width]
    return downsample(high, scale), high


class Bicubic(nn.Module):
    """Bicubic upsampling, the baseline of networks: float `[N, C, h, w]` to `[N, C, scale h, scale w]`.

    With torch's `antialias`, which for upsampling only changes the kernel: a = -0.5 instead of -0.75.
    """

    def __init__(self, scale: int):
        super().__init__()
        self.scale = scale

    def forward(self, low: Tensor) -> Tensor:
        size = [side * self.scale for side in low.shape[-2:]]
        return F.interpolate(low, size, mode="bicubic", antialias=True, align_corners=False)


class Tiles(Dataset):
    """Squares cut from the pairs: `{"low": uint8 [3, t, t], "high": uint8 [3, scale t, scale t]}`, t being `side`.

    Tiles share no pixel, so that held-out tiles are meaningful; they are spread evenly, with gaps of up to a tile's
    side. An item depends only on its index: the position of a patch in its tile is drawn by `random_patches`, within
    the step.
    """

    def __init__(self, pairs: Sequence[Pair], side: int, scale: int):
        self.pairs, self.side, self.scale = pairs, side, scale
        self.places = [
            (number, int(top), int(left))
            for number, (low, _) in enumerate(pairs)
            for top in self._starts(low.shape[1])
            for left in self._starts(low.shape[2])
        ]

    def _starts(self, length: int) -> np.ndarray:
        return np.linspace(0, length - self.side, length // self.side).astype(int)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number, top, left = self.places[index]
        low, high = self.pairs[number]
        return dict(zip(("low", "high"), cut(low, high, top, left, self.side), strict=True))

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        items = [self[index] for index in indices]
        return {name: torch.stack([item[name] for item in items]) for name in ("low", "high")}


def cut(low: Tensor, high: Tensor, top: int, left: int, side: int) -> Pair:
    """The square of `side` low-resolution pixels at (top, left) of `low` `[..., h, w]`, and the same of `high`."""
    scale = high.shape[-1] // low.shape[-1]
    return (
        low[..., top : top + side, left : left + side],
        high[..., scale * top : scale * (top + side), scale * left : scale * (left + side)],
    )


def random_patches(low: Tensor, high: Tensor, side: int, flips: bool, rotations: bool) -> Pair:
    """From each tile a patch of `side` low-resolution pixels at a uniform position, randomly mirrored and rotated by 0,
    90, 180 or 270 degrees.

    low `[N, C, t, t]`, high `[N, C, scale t, scale t]`; both are cut and rotated alike. Drawn by torch's CPU
    generator on any device: Lim et al. 2017, Sec. 4.1, "random horizontal flips and 90 degree rotations".
    """
    count, room = len(low), low.shape[-1] - side
    places = torch.randint(0, room + 1, (count, 2)).tolist()
    mirrored = (torch.rand(count) < 0.5).tolist() if flips else [False] * count
    turns = torch.randint(0, 4, (count,)).tolist() if rotations else [0] * count
    patches = []
    for index, (top, left) in enumerate(places):
        patch = cut(low[index], high[index], top, left, side)
        if mirrored[index]:
            patch = tuple(image.flip(-1) for image in patch)
        patches.append(tuple(image.rot90(turns[index], (-2, -1)) for image in patch))
    return tuple(map(torch.stack, zip(*patches, strict=True)))


def centre_patches(low: Tensor, high: Tensor, side: int) -> Pair:
    """The middle of each tile, on which the validation loss is measured. Arguments as in `random_patches`."""
    start = (low.shape[-1] - side) // 2
    return cut(low, high, start, start, side)
