"""Learning rates over a run, as a factor of the first."""

from types import SimpleNamespace

import pytest

from quantlab.methods.decay import decay_factor


def section(**values):
    return SimpleNamespace(
        **{"decay": "cosine", "decay_every": "step", "milestones": [0.25, 0.5], "decay_factor": 0.1} | values
    )


def test_decay():
    assert [decay_factor(section(), step, 10, 5) for step in (0, 5)] == pytest.approx([1.0, 0.5])
    assert [decay_factor(section(decay_every="epoch"), step, 20, 2) for step in (0, 1, 10, 11)] == pytest.approx(
        [1, 1, 0.5, 0.5]
    )
    assert [decay_factor(section(decay="step"), step, 8, 1) for step in (1, 2, 3, 4)] == pytest.approx(
        [1, 0.1, 0.1, 0.01]
    )
    assert decay_factor(section(decay="constant"), 9, 10, 1) == 1


@pytest.mark.parametrize("total, steps_per_epoch", [(3, 20), (20, 20), (45, 20), (180, 20)])
def test_a_short_run_decays_fully_though_its_schedule_goes_by_epochs(total, steps_per_epoch):
    by_epoch = section(decay_every="epoch")
    factors = [decay_factor(by_epoch, step, total, steps_per_epoch) for step in range(total)]
    assert factors == [decay_factor(section(), step, total, steps_per_epoch) for step in range(total)]
    assert decay_factor(by_epoch, total, total, steps_per_epoch) == pytest.approx(0, abs=1e-12)
