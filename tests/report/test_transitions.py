"""Figures of QAT show what they should."""

import numpy as np
import pytest
from PIL import Image

from quantlab.report.figures import _distinct_layers
from quantlab.report.transitions import MEAN, TARGET, latent_weight_histograms, transition_curves


def pixels(path, color, tolerance=24):
    """How many pixels are near a hexadecimal color."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - wanted).max(axis=2) <= tolerance).sum())


def rows(scheduled):
    made = []
    for step in range(10, 500, 10):
        row = {
            "step": step,
            "running_transition_rate": 0.005,
            "layers/running_transition_rate": {"a": 0.004, "b": 0.006},
        }
        made.append(row | ({"target_transition_rate": 0.007 - step * 1e-5} if scheduled else {}))
    return [*made, {"step": 500, "validation_top1": 90.0}]


@pytest.mark.parametrize("scheduled", [True, False])
def test_mean_and_layers_are_drawn_and_the_target_where_there_is_one(scheduled, tmp_path):
    path = transition_curves(rows(scheduled), tmp_path / "figures" / "transitions.png")
    alone = [{key: value for key, value in row.items() if not key.startswith("layers/")} for row in rows(scheduled)]
    empty = transition_curves(alone, tmp_path / "without_layers.png")
    assert pixels(path, MEAN) > 500 and pixels(path, "#aaaaaa", 60) > pixels(empty, "#aaaaaa", 60) + 100
    assert (pixels(path, TARGET) > 200) == scheduled


def test_every_target_is_drawn_where_layers_differ(tmp_path):
    own = {"a": 0.003, "b": 0.008, "c": 0.003}
    differing = [
        row | {"layers/target_transition_rate": own} if "target_transition_rate" in row else row
        for row in rows(scheduled=True)
    ]
    assert [curve[0] for _, curve in _distinct_layers(differing, "target_transition_rate")] == [0.003, 0.008]
    path, one = (
        transition_curves(made, tmp_path / f"{len(made[0])}.png") for made in (differing, rows(scheduled=True))
    )
    assert pixels(path, TARGET) > pixels(one, TARGET) + 100


def test_histograms_show_their_transition_points(tmp_path):
    layer = {"low": -2, "high": 1, "counts": [1, 2, 3, 4, 5, 6], "transition_points": [-1.5, -0.5, 0.5]}
    with_points = latent_weight_histograms({"a": layer, "b": layer}, tmp_path / "a.png")
    without = latent_weight_histograms({"a": layer | {"transition_points": []}}, tmp_path / "b.png")
    assert pixels(with_points, MEAN) > 5000 and pixels(with_points, TARGET) > 300 and pixels(without, TARGET) == 0
