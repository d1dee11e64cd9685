"""Grids of images as PNG files: pixels are repeated, never interpolated, so that 8x8 digits appear as they are."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from quantlab.report.png import write_png

TILE = 96  # pixels: smaller images are enlarged by an integer factor to about this
GAP = 6  # pixels between tiles
LABEL_SIZE = 20  # pixels, height of the letters
BACKGROUND = 255
MAX_AMPLIFICATION = 256


def sample_grid(images: np.ndarray, path: Path, columns: int = 8) -> Path:
    """All `images` (float [N, C, H, W] in [-1, 1], C 1 or 3) in rows of `columns`, left to right, top to bottom."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    return _write(_tiled(_to_pixels(images), rows, columns), path)


def comparison_grid(
    full_precision: np.ndarray, quantized: np.ndarray, path: Path, columns: int = 12, amplify: float | None = None
) -> Path:
    """The first `columns` images in three labelled rows: full precision, quantized, and their amplified difference.

    Args:
        full_precision, quantized: float [N, C, H, W] in [-1, 1], C 1 or 3; image i of both starts from the same noise.
        amplify: factor on the absolute difference; None chooses `readable_amplification`. The label names it.
    """
    reference, other = _shown(full_precision[:columns]), _shown(quantized[:columns])
    difference = np.abs(reference - other)
    factor = readable_amplification(difference) if amplify is None else amplify
    labels = ("full precision", "quantized", f"|difference| × {factor:g}")
    images = np.concatenate([reference, other, np.clip(difference * factor, 0, 1)])
    picture = _tiled(_pixels(images), rows=3, columns=len(reference))
    return _write(_labelled(picture, labels), path)


def labelled_rows(rows: Mapping[str, np.ndarray], path: Path, tile: int = TILE, columns: int | None = None) -> Path:
    """One row of images per label, in order; each float [N, C, H, W] in [-1, 1], all of one size, enlarged to about
    `tile` pixels.

    With `columns`, each label has as many rows of that many images as the shortest of `rows` fills (a shorter one is
    kept whole).
    """
    count = min(map(len, rows.values()))
    columns = min(columns or count, count)
    images = np.concatenate([_shown(row[: count // columns * columns]) for row in rows.values()])
    picture = _tiled(_pixels(images, tile), len(images) // columns, columns)
    return _write(_labelled(picture, tuple(rows)), path)


def readable_amplification(difference: np.ndarray) -> int:
    """The largest power of two, 1 to 256, that leaves 99 % of `difference` (float, 0 to 1) unclipped."""
    bulk = float(np.quantile(difference, 0.99))
    if bulk <= 1 / MAX_AMPLIFICATION:
        return MAX_AMPLIFICATION if bulk > 0 else 1
    return 2 ** max(0, math.floor(math.log2(1 / bulk)))


def _shown(images: np.ndarray) -> np.ndarray:
    """[-1, 1] to [0, 1], clipped, for display. float64 [N, C, H, W]."""
    return np.clip((np.asarray(images, dtype=np.float64) + 1) / 2, 0, 1)


def _to_pixels(images: np.ndarray) -> np.ndarray:
    return _pixels(_shown(images))


def _pixels(images: np.ndarray, tile: int = TILE) -> np.ndarray:
    """[0, 1] [N, C, H, W] to uint8 [N, H', W', 3], enlarged by an integer factor."""
    factor = max(1, round(tile / max(images.shape[2:])))
    images = np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def _tiled(tiles: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """uint8 [N, H, W, 3] to one image uint8 [rows * (H + GAP) - GAP, columns * (W + GAP) - GAP, 3]."""
    _, height, width, _ = tiles.shape
    picture = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), BACKGROUND, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        picture[top : top + height, left : left + width] = tile
    return picture


def _labelled(picture: np.ndarray, labels: tuple[str, ...]) -> np.ndarray:
    """The image with one line of text to the left of each of `len(labels)` rows of equal height."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), LABEL_SIZE)
    margin = 3 * GAP + math.ceil(max(font.getlength(label) for label in labels))
    canvas = Image.new("RGB", (margin + picture.shape[1], picture.shape[0]), (BACKGROUND,) * 3)
    canvas.paste(Image.fromarray(picture), (margin, 0))
    pitch = (picture.shape[0] + GAP) / len(labels)
    for row, label in enumerate(labels):
        right_middle = (margin - 2 * GAP, (row + 0.5) * pitch - GAP / 2)
        ImageDraw.Draw(canvas).text(right_middle, label, "black", font, anchor="rm")
    return np.asarray(canvas)


def _write(picture: np.ndarray, path: Path) -> Path:
    from PIL import Image

    return write_png(path, partial(Image.fromarray(picture).save, format="png"))
