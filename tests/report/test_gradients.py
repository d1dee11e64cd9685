"""Figures of quantized gradients show what they should."""

import numpy as np
from PIL import Image

from quantlab.report.gradients import MEAN, TARGET, gradient_curves, gradient_histograms


def pixels(path, color, tolerance=24):
    """How many pixels are near a hexadecimal color."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - wanted).max(axis=2) <= tolerance).sum())


def test_curves_show_the_share_and_its_target(tmp_path):
    rows = [
        {
            "step": step,
            "gradient_clip_ratio": 0.8,
            "layers/gradient_clip_ratio": {"a": 0.7, "b": 0.9},
            "gradient_clipped_share": 1e-4,
        }
        for step in range(10, 300, 10)
    ]
    with_target = gradient_curves([row | {"gradient_clipped_share_target": 6.7e-5} for row in rows], tmp_path / "a.png")
    without = gradient_curves(rows, tmp_path / "b.png")
    assert pixels(with_target, MEAN) > 500 and pixels(with_target, TARGET) > 200 and pixels(without, TARGET) == 0


def test_histograms_show_where_the_interval_ends(tmp_path):
    counts = np.exp(-np.abs(np.linspace(-9, 9, 101))) * 1000

    def columns(clip_ratio):
        path = gradient_histograms(
            {"a": {"counts": counts.tolist(), "clip_ratio": clip_ratio}}, tmp_path / f"{clip_ratio}.png"
        )
        image = np.asarray(Image.open(path).convert("RGB")).astype(int)
        near = np.abs(image - np.array([0xD5, 0x5E, 0x00])).max(axis=2) <= 24
        return np.flatnonzero(near.sum(axis=0) > 30)

    narrow, wide = columns(0.3), columns(0.9)
    assert wide.min() < narrow.min() < narrow.max() < wide.max()
