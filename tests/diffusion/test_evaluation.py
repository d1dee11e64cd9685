"""Comparing walks: errors worked out by hand with a network that is wrong by a constant."""

from types import SimpleNamespace

import pytest
import torch

from quantlab.diffusion.evaluation import compare_walks
from quantlab.diffusion.rollout import Schedule
from quantlab.diffusion.trajectories import GroupDataset, Trajectories, compute_states, step_noise

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def exact(x, t, i):
    return 0.1 * x


def wrong(x, t, i):
    return 0.1 * x + (0.5 if i == 2 else 0.0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_error_in_one_step_appears_there_and_is_carried_on(eta):
    schedule = Schedule.build(ALPHAS, SimpleNamespace(steps=5, eta=eta, spacing="uniform", clip_sample=False))
    shape = (6, 1, 2, 2)
    states = compute_states(exact, schedule, shape, seed=3, batch_size=4)
    reference = Trajectories(states, step_noise(schedule, shape, 3))
    result = compare_walks(wrong, schedule, reference, batch_size=4, step_error_samples=5, keep=(2,))

    here, there = schedule.alphas[2], schedule.alphas[3]
    b = (1 - there - schedule.sigma(2) ** 2) ** 0.5 - (there / here) ** 0.5 * (1 - here) ** 0.5
    expected = (0.5 * b) ** 2
    assert result.step_error == pytest.approx([0, 0, expected, 0, 0], abs=1e-9, rel=1e-4)
    assert result.accumulated_error[:3] == pytest.approx([0, 0, expected], abs=1e-9, rel=1e-4)
    a = [(schedule.alphas[i + 1] / schedule.alphas[i]) ** 0.5 for i in range(5)]
    slope = [a[i] + 0.1 * ((1 - schedule.alphas[i + 1] - schedule.sigma(i) ** 2) ** 0.5
                           - a[i] * (1 - schedule.alphas[i]) ** 0.5) for i in range(5)]
    assert result.accumulated_error[3:] == pytest.approx(
        [expected * slope[3] ** 2, expected * slope[3] ** 2 * slope[4] ** 2], rel=1e-3)
    torch.testing.assert_close(result.states[2], states[2])     # nothing was wrong yet
    assert result.images.shape == shape


def test_group_dataset_gives_the_groups_ends():
    states = torch.arange(7.0)[:, None, None, None, None].expand(7, 4, 1, 2, 2)
    dataset = GroupDataset(Trajectories(states, noise=states[1:]))
    batch = dataset.__getitems__([(range(3, 6), 0), (range(3, 6), 3)])
    assert batch["steps"] == range(3, 6) and batch["trajectories"].tolist() == [0, 3]
    assert batch["start"].unique().tolist() == [3] and batch["end"].unique().tolist() == [6]
    assert batch["noise"].shape == (3, 2, 1, 2, 2) and batch["noise"][:, 0, 0, 0, 0].tolist() == [4, 5, 6]
