"""What the tracker counts, on a walk worked out by hand."""

import pytest
import torch

from quantlab.optim.oscillation import TransitionTracker


def test_transitions_jumps_and_oscillations():
    weight = torch.tensor([0.0, 0.0, 0.0, 0.0])
    tracker = TransitionTracker(torch.round, weight, m=0.5, m_o=0.1)
    walk = [[1.0, 2.0, 0.0, 1.0],       # three transit, by 1, 2 and 1
            [0.0, 2.0, 0.0, 2.0],       # the first turns back: it oscillates; the last goes on: it does not
            [0.0, 2.0, 0.4, 2.0],       # nothing transits
            [1.0, 1.0, 0.4, 3.0]]       # the first turns again, across the pause; the second turns for the first time
    rates, jumps, oscillating = [], [], []
    for step in walk:
        tracker.update(torch.tensor(step))
        rates.append(float(tracker.transition_rate))
        jumps.append(float(tracker.jump))
        oscillating.append((tracker.frequency > 0).tolist())
    assert rates == [0.75, 0.5, 0.0, 0.75] and jumps == [1.0, 0.5, 0.0, 0.75]
    assert oscillating == [[False] * 4, [True, False, False, False], [True, False, False, False], [True, True, False, False]]
    # K: 0.375, 0.4375, 0.21875, 0.484375. f of the first weight: 0.1, 0.09, then 0.9 * 0.09 + 0.1
    assert float(tracker.running_transition_rate) == 0.484375
    assert float(tracker.frequency[0]) == pytest.approx(0.181)
    assert float(tracker.oscillating_share(threshold=0.15)) == 0.25


def test_state_comes_back():
    torch.manual_seed(0)
    tracker = TransitionTracker(torch.round, torch.randn(50))
    for _ in range(5):
        tracker.update(torch.randn(50))
    other = TransitionTracker(torch.round, torch.randn(50))
    other.load_state_dict(tracker.state_dict())
    step = torch.randn(50)
    tracker.update(step)
    other.update(step)
    for name, tensor in tracker.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
