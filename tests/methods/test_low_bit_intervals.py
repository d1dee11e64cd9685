"""Every interval of gradients in whole runs, and what follows from clip ratios and deviations."""

import numpy as np
import pytest
from kills import interrupted_at
from run_files import clip_ratios, results, rows, trained_state
from tiny import TINY_CLASSIFIER, TINY_LOW_BIT

from quantlab.methods.low_bit import LowBit


def test_clipping_values_have_an_optimizer_of_their_own(quantlab, tmp_path):
    words = (
        *TINY_LOW_BIT,
        "method.learning_rate.sgd=1e-20",
        "method.weight_decay=0",
        "method.decay=constant",
        "trainer.max_steps=3",
        "trainer.checkpoint_every=1",
    )
    for name, rate in (("still", "1e-20"), ("moving", "1e-3")):
        assert quantlab(*words, f"method.scale_learning_rate={rate}", f"output_dir={tmp_path / name}")[0] == 0
    still, moving = (trained_state(tmp_path / name) for name in ("still", "moving"))
    for name in (
        "layer1.0.conv1.weight_quantizer.clipping_value",
        "layer1.0.conv1.activation_quantizer.clipping_value",
    ):
        assert 5e-4 < (still[name] - moving[name]).abs() < 4e-3  # three steps of Adam
    assert still["layer1.0.conv1.weight"].equal(moving["layer1.0.conv1.weight"])


@pytest.mark.parametrize("interval", ["fixed", "min_max", "dsgc", "piecewise"])
def test_every_interval_trains(interval, quantlab, tmp_path):
    directory = tmp_path / "run"
    code, _, err = quantlab(
        "method=low_bit",
        *TINY_CLASSIFIER,
        f"quantizer.gradient.interval={interval}",
        "trainer.max_steps=4",
        "quantizer.gradient.period=2",
        f"output_dir={directory}",
    )
    assert code == 0, err
    logged = [row for row in rows(directory) if "gradient_error" in row]
    assert len(logged) == 4 and "gradient_clipped_share_target" not in logged[0]
    ratios = clip_ratios(directory)
    expected = {"fixed": 0.8, "min_max": 1.0, "piecewise": 1.0}.get(interval)
    assert all(ratio == pytest.approx(expected) for ratio in ratios[-1]) if expected else max(ratios[-1]) < 1
    assert results(directory)["metrics"]["top1"] > 0


def test_the_rate_of_a_layer_falls_with_the_deviation_of_its_gradient(quantlab, tmp_path, monkeypatch):
    """max(e^(-20 d_c), 0.1) times the rate of everything else, and kept through a stop between two choices."""
    words = (
        "method=low_bit",
        *TINY_CLASSIFIER,
        "quantizer.gradient.interval=dsgc",
        "quantizer.gradient.period=4",
        "method.deviation_scaling=true",
        "quantizer.gradient.bits=3",
        "method.weight_decay=0",
        "method.decay=constant",
        "trainer.checkpoint_every=2",
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert quantlab(*words, "trainer.max_steps=7", f"output_dir={whole}")[0] == 0
    scales = np.array(
        [list(row["layers/learning_rate_scale"].values()) for row in rows(whole) if "learning_rate_scale" in row]
    )
    assert scales.shape == (7, 6) and ((scales >= 0.1) & (scales < 0.95)).all()
    assert (scales[:4] == scales[0]).all() and (scales[4:] == scales[4]).all() and (scales[4] != scales[0]).any()
    interrupted_at(7, LowBit, monkeypatch)
    assert quantlab(*words, "trainer.max_steps=7", f"output_dir={stopped}")[0] == 130
    assert quantlab(f"resume={stopped}")[0] == 0
    assert results(stopped)["metrics"] == results(whole)["metrics"]
