"""AdaRound's equations by hand."""

import pytest
import torch

from quantlab.quantizers import adaround


def test_rectified_sigmoid_by_hand():
    # h(0) = 0.5 * 1.2 - 0.1 = 0.5; it reaches exactly 0 and 1 at finite V = -/+ log 11
    assert adaround.rectified_sigmoid(torch.tensor([0.0, 50.0, -50.0])).tolist() == pytest.approx([0.5, 1.0, 0.0])
    edge = torch.log(torch.tensor(11.0, dtype=torch.float64))
    assert adaround.rectified_sigmoid(torch.stack([edge, -edge])).tolist() == pytest.approx([1.0, 0.0], abs=1e-9)


def test_inverse_is_inverse():
    fraction = torch.linspace(0, 1, 11, dtype=torch.float64)
    back = adaround.rectified_sigmoid(adaround.inverse_rectified_sigmoid(fraction))
    torch.testing.assert_close(back, fraction)


def test_regularizer_by_hand():
    # 1 - |2h-1|^2 at h = 0, 1/4, 1/2, 1: 0, 3/4, 1, 0
    assert adaround.rounding_regularizer(torch.tensor([0.0, 0.25, 0.5, 1.0]), 2.0).item() == pytest.approx(1.75)


def test_annealing_by_hand():
    assert adaround.annealed_beta(0.1, 20, 2, 0.2) is None
    assert adaround.annealed_beta(0.2, 20, 2, 0.2) == pytest.approx(20)
    assert adaround.annealed_beta(0.6, 20, 2, 0.2) == pytest.approx(11)
    assert adaround.annealed_beta(1.0, 20, 2, 0.2) == pytest.approx(2)
