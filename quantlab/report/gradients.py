"""Figures of quantized gradients: intervals and errors over training, histograms. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantlab.report.axis_words import words_of
from quantlab.report.figures import layer_curves
from quantlab.report.panels import TITLE_SIZE, new_panels, save_panels

PANELS = {
    key: words_of(key)
    for key in ("gradient_clip_ratio", "gradient_clipped_share", "gradient_error", "large_gradient_error")
}
TARGETS = {"gradient_clipped_share": ("gradient_clipped_share_target", r"target $\alpha/(2^b - 1)$")}
MEAN, TARGET = "#0072B2", "#D55E00"


def gradient_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """One panel per quantity of metrics.jsonl over training: the mean over layers, each layer coloured by its
    depth, and R's target.
    """
    return layer_curves(rows, PANELS, TARGETS, path, columns=2)


def gradient_histograms(layers: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Histograms of gradients over their largest magnitude, one panel per layer, on a logarithmic axis, with the
    interval marked.

    layers: by name `counts` (equal bins from -1 to 1) and `clip_ratio`.
    """
    figure, panels = new_panels(max(len(layers), 1), columns=2)
    for axes, (name, histogram) in zip(panels, layers.items(), strict=False):
        counts = np.asarray(histogram["counts"], dtype=float)
        axes.stairs(counts / max(counts.sum(), 1), np.linspace(-1, 1, len(counts) + 1), fill=True, color=MEAN)
        for side in (-1, 1):
            axes.axvline(
                side * histogram["clip_ratio"],
                color=TARGET,
                linestyle="--",
                linewidth=0.9,
                label=r"interval $\pm\gamma$" if side == 1 else None,
            )
        axes.set_yscale("log")
        axes.set_title(name, fontsize=TITLE_SIZE)
        axes.set_xlabel("gradient / largest magnitude of its layer")
        axes.set_ylabel("share of gradients (0 to 1)")
    return save_panels(figure, panels, path)
