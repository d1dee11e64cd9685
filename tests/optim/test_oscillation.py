"""Transitions and oscillations on a walk worked out by hand."""

import pytest
import torch

from quantlab.optim.oscillation import IterativeFreezing, TransitionTracker, dampening_loss


def test_transitions_jumps_and_oscillations():
    weight = torch.tensor([0.0, 0.0, 0.0, 0.0])
    tracker = TransitionTracker(torch.round, weight, m=0.5, m_o=0.1)
    walk = [
        [1.0, 2.0, 0.0, 1.0],  # three transit, by 1, 2 and 1
        [0.0, 2.0, 0.0, 2.0],  # the first turns back: it oscillates; the last goes on: it does not
        [0.0, 2.0, 0.4, 2.0],  # nothing transits
        [1.0, 1.0, 0.4, 3.0],
    ]  # the first turns again, across the pause; the second turns for the first time
    rates, jumps, oscillating = [], [], []
    for step in walk:
        tracker.update(torch.tensor(step))
        rates.append(float(tracker.transition_rate))
        jumps.append(float(tracker.jump))
        oscillating.append((tracker.frequency > 0).tolist())
    assert rates == [0.75, 0.5, 0.0, 0.75] and jumps == [1.0, 0.5, 0.0, 0.75]
    assert oscillating == [
        [False] * 4,
        [True, False, False, False],
        [True, False, False, False],
        [True, True, False, False],
    ]
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


def test_dampening_pulls_to_the_middle_of_the_bin():
    weight = torch.tensor([[0.3, -1.2], [2.5, 0.9]], requires_grad=True)
    clipped = torch.tensor([[False, False], [True, False]])
    loss = dampening_loss(weight, torch.tensor([[0.0, -1.0], [1.0, 1.0]]), clipped)
    # the mean within each of the two output channels
    assert loss.item() == pytest.approx((0.09 + 0.04) / 2 + 0.01 / 2)
    loss.backward()
    assert torch.allclose(weight.grad, torch.tensor([[0.3, -0.2], [0.0, -0.1]]))
    for aggregation, wanted in (("sum", 0.14), ("mean", 0.14 / 4), ("kernel_mean", 0.14 / 2)):
        assert dampening_loss(
            weight, torch.tensor([[0.0, -1.0], [1.0, 1.0]]), clipped, aggregation
        ).item() == pytest.approx(wanted)


@pytest.mark.parametrize("mean_from_start, level", [(True, 0.0), (False, 1.0)])
def test_freezing_holds_the_level_where_an_oscillating_weight_spent_its_time(mean_from_start, level):
    def round_(weight):
        return weight.round()

    weight = torch.zeros(2)
    freezing = IterativeFreezing(
        TransitionTracker(round_, weight, m_o=0.5), lambda levels: levels * 1.0, mean_from_start
    )
    for value in (0.1, 0.2, 0.9, 0.1):  # levels 0, 0, 1, 0: f = 0, 0, 0, .5
        weight.copy_(torch.tensor([value, 3.0]))
        freezing.update(weight, threshold=None)
    # of the first weight: mean level from the start 0, 0, .5, .25; of the freezing none yet
    assert not freezing.frozen.any() and (freezing.mean_level is None) != mean_from_start
    if mean_from_start:
        assert freezing.mean_level[0] == 0.25
    weight.copy_(torch.tensor([1.2, 3.1]))
    # f = .75: frozen at the mean up to the update before, or at what it is
    freezing.update(weight, threshold=0.3)
    assert freezing.frozen.tolist() == [True, False] and weight.tolist() == pytest.approx([level, 3.1])
    weight.copy_(torch.tensor([-2.0, 4.4]))
    freezing.update(weight, threshold=0.3)
    assert weight.tolist() == pytest.approx([level, 4.4])  # the frozen one is back, the other is free
    weight.copy_(torch.tensor([-2.0, 5.4]))
    freezing.update(weight, threshold=0.3)
    assert freezing.tracker.transition_rate == 0.5  # and only the other one counts

    again = IterativeFreezing(TransitionTracker(round_, torch.zeros(2)), latent=lambda levels: levels * 2.0)
    again.load_state_dict(freezing.state_dict())
    again.update(weight, threshold=0.3)
    # the level is frozen, not the number: scales may be learned
    assert weight.tolist() == pytest.approx([2 * level, 5.4])


def test_a_state_from_before_the_freezing_comes_back():
    freezing, other = (
        IterativeFreezing(TransitionTracker(torch.round, torch.zeros(3)), lambda levels: levels) for _ in range(2)
    )
    other.load_state_dict(freezing.state_dict())
    for one in (freezing, other):
        one.update(torch.tensor([0.0, 1.0, 2.0]), threshold=0.5)
    assert torch.equal(freezing.mean_level, other.mean_level) and other.mean_level.tolist() == [0.0, 1.0, 2.0]


def test_a_frozen_binary_weight_has_a_level():
    def sign(weight):
        return torch.where(weight >= 0, 1.0, -1.0)

    weight = torch.full((1,), -1.0)
    freezing = IterativeFreezing(TransitionTracker(sign, weight, m_o=0.5), latent=lambda levels: levels * 0.3)
    for value in (0.1, -0.1, 0.1, -0.1):
        weight.fill_(value)
        freezing.update(weight, threshold=0.4)
    assert freezing.frozen.all() and float(weight.abs()) == pytest.approx(0.3)
