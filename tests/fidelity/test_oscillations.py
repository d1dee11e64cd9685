"""Oscillation frequencies, iterative freezing and dampening against the released code of Nagel et al. 2022."""

import math

import pytest
import torch
from stored import normal, stored, uniform

from quantlab.optim.oscillation import IterativeFreezing, TransitionTracker, dampening_loss

CASES = stored("oscillations")
SCALE, N, PASSES, START = 0.125, 64, 400, 100


def levels(weight):
    return (weight / SCALE).round().clamp(-4, 3)


def latent(t):
    """The latent weights before forward pass t."""
    return 0.25 * normal(31, N) + 0.06 * uniform(32, N) * normal(3000 + t, N)


def threshold(t):
    return None if t < START else 0.02 + 0.5 * (0.1 - 0.02) * (1 + math.cos(math.pi * (t - START) / (PASSES - START)))


def test_frequencies_over_400_updates():
    tracker, rows = TransitionTracker(levels, latent(0), m_o=0.01), iter(CASES["tracking"])
    for t in range(1, PASSES):
        before = tracker.frequency.clone()
        tracker.update(latent(t))
        if (t + 1) % 20 == 0:
            row = next(rows)
            assert tracker.frequency[:16].tolist() == pytest.approx(row["frequency"], rel=1e-5, abs=1e-8), t
            assert int((tracker.frequency > before).sum()) == row["oscillated"], t


def test_what_is_frozen_and_where_over_400_updates():
    freezing, rows = (
        IterativeFreezing(TransitionTracker(levels, latent(0), m_o=0.01), lambda level: level * SCALE),
        iter(CASES["freezing"]),
    )
    for t in range(1, PASSES):
        freezing.update(latent(t), threshold(t))
        if (t + 1) % 20 == 0:
            row = next(rows)
            assert freezing.tracker.frequency[:16].tolist() == pytest.approx(row["frequency"], rel=1e-5, abs=1e-8), t
            assert freezing.frozen.nonzero().flatten().tolist() == row.get("frozen", []), t
            assert freezing.frozen_level[freezing.frozen].tolist() == row.get("levels", []), t
            if "mean_level" in row:
                assert freezing.mean_level[:16].tolist() == pytest.approx(row["mean_level"], rel=1e-5, abs=1e-6), t
    assert 10 < int(freezing.frozen.sum()) < N


@pytest.mark.parametrize("aggregation", CASES["dampening"])
def test_dampening_and_its_gradient(aggregation):
    weight = (0.3 * normal(41, 6, 5)).requires_grad_()
    in_levels = weight.detach() / SCALE
    loss = dampening_loss(weight, levels(weight.detach()) * SCALE, (in_levels <= -4) | (in_levels >= 3), aggregation)
    loss.backward()
    case = CASES["dampening"][aggregation]
    assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
    torch.testing.assert_close(weight.grad, torch.tensor(case["grad"]), rtol=1e-5, atol=1e-8)
