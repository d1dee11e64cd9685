"""Figures of quantization-aware training: transition rates, step sizes, latent weights. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantlab.report.axis_words import words_of
from quantlab.report.figures import layer_curves
from quantlab.report.panels import TITLE_SIZE, new_panels, save_panels

PANELS = {
    key: words_of(key)
    for key in (
        "running_transition_rate",
        "talr",
        "effective_step_size",
        "distance_to_transition_point",
        "oscillating_share",
        "frozen_share",
    )
}
TARGETS = {"running_transition_rate": ("target_transition_rate", "target $R$")}
MEAN, TARGET = "#0072B2", "#D55E00"


def transition_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """One panel per quantity of metrics.jsonl over training: the mean over layers, each layer faint and darker with
    depth, and K's target.

    A run under a learning-rate schedule has no target and no U.
    """
    return layer_curves(rows, PANELS, TARGETS, path, columns=3)


def latent_weight_histograms(layers: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Histograms of normalized latent weights, one panel per layer, with transition points.

    layers: by name `low`, `high`, `counts` (equal bins between the two) and `transition_points`. Clipped weights are in
    the outermost bars.
    """
    figure, panels = new_panels(max(len(layers), 1), columns=2)
    for axes, (name, histogram) in zip(panels, layers.items(), strict=False):
        counts = np.asarray(histogram["counts"], dtype=float)
        edges = np.linspace(histogram["low"], histogram["high"], len(counts) + 1)
        axes.stairs(counts / max(counts.sum(), 1), edges, fill=True, color=MEAN)
        for number, point in enumerate(histogram["transition_points"]):
            axes.axvline(
                point, color=TARGET, linestyle="--", linewidth=0.9, label=None if number else "transition point"
            )
        axes.set_title(name, fontsize=TITLE_SIZE)
        axes.set_xlabel("normalized latent weight (levels)")
        axes.set_ylabel("share of weights (0 to 1)")
    return save_panels(figure, panels, path)
