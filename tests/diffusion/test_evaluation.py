"""Comparing walks: errors worked out by hand with a network that is wrong by a constant."""

from types import SimpleNamespace

import pytest
import torch

from quantlab.diffusion.evaluation import compare_walks
from quantlab.diffusion.samplers import build_sampler
from quantlab.diffusion.trajectories import GroupDataset, Trajectories, WalkEnds, compute_walks
from quantlab.run.batch_files import batches_of

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def exact(condition):
    return lambda x, t, i: 0.1 * x


def wrong(condition):
    return lambda x, t, i: 0.1 * x + (0.5 if i == 2 else 0.0)


def sampler_of(name="ddim", eta=0.0, steps=5):
    return build_sampler(ALPHAS, SimpleNamespace(name=name, steps=steps, eta=eta, spacing="uniform", clip_sample=False))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_error_in_one_step_appears_there_and_is_carried_on(eta, tmp_path):
    sampler, shape = sampler_of(eta=eta), (6, 1, 2, 2)
    compute_walks(tmp_path, exact, sampler, {}, shape, 3, [6, 5, 6, 5, 5, 6], batch_size=4)
    reference = Trajectories(tmp_path, sampler, {})
    parts = [compare_walks(wrong, reference, rows, error_samples=5, keep=(2,)) for rows in batches_of(6, 4)]
    step_error, accumulated_error = (
        sum(getattr(part, name) for part in parts) for name in ("step_error", "accumulated_error")
    )

    alphas, sigma = (*sampler.levels, sampler.ends[-1]), sampler.noise_scale
    b = (1 - alphas[3] - sigma(2) ** 2) ** 0.5 - (alphas[3] / alphas[2]) ** 0.5 * (1 - alphas[2]) ** 0.5
    expected = (0.5 * b) ** 2
    assert step_error.tolist() == pytest.approx([0, 0, expected, 0, 0], abs=1e-9, rel=1e-4)
    assert accumulated_error[:3].tolist() == pytest.approx([0, 0, expected], abs=1e-9, rel=1e-4)
    a = [(alphas[i + 1] / alphas[i]) ** 0.5 for i in range(5)]
    slope = [
        a[i] + 0.1 * ((1 - alphas[i + 1] - sigma(i) ** 2) ** 0.5 - a[i] * (1 - alphas[i]) ** 0.5) for i in range(5)
    ]
    assert accumulated_error[3:].tolist() == pytest.approx(
        [expected * slope[3] ** 2, expected * slope[3] ** 2 * slope[4] ** 2], rel=1e-3
    )
    states = torch.cat([part.states[2] for part in parts])
    torch.testing.assert_close(states, reference.state(2).x)  # nothing was wrong yet
    assert torch.cat([part.images for part in parts]).shape == shape


@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.5), ("ddpm", 0.0), ("euler", 0.0), ("dpm_solver", 0.0)])
def test_walks_are_the_same_in_one_go_and_from_any_state_that_was_kept(name, eta, tmp_path):
    sampler, shape = sampler_of(name, eta), (5, 1, 2, 2)
    told = {"class_labels": torch.arange(5)}

    def conditional(condition):
        return lambda x, t, i: 0.1 * x + condition["class_labels"].view(-1, 1, 1, 1) / 10

    compute_walks(tmp_path, conditional, sampler, told, shape, 3, [5] * 6, batch_size=2)
    walks = Trajectories(tmp_path, sampler, told)
    ends = WalkEnds(conditional, sampler, told, shape, 3)
    for rows in (*batches_of(5, 2), slice(2, 4)):
        assert torch.equal(walks.images[rows], ends[rows])
    rows = torch.tensor([4, 1])
    state, network = walks.state(2, rows), conditional(walks.condition_of(rows))
    for i in (2, 3, 4):
        state = sampler.step(
            i, state, network(sampler.network_input(i, state.x), sampler.timesteps[i], i), walks.noise(i, rows)
        )
        torch.testing.assert_close(state, walks.state(i + 1, rows))


def test_group_dataset_gives_the_groups_ends(tmp_path):
    sampler = sampler_of("dpm_solver", steps=6)
    compute_walks(tmp_path, exact, sampler, {"class_labels": torch.arange(4)}, (4, 1, 2, 2), 0, [4] * 7, batch_size=4)
    walks = Trajectories(tmp_path, sampler, {"class_labels": torch.arange(4)})
    batch = GroupDataset(walks).__getitems__([(range(3, 6), 0), (range(3, 6), 3)])
    assert batch["steps"] == range(3, 6) and batch["trajectories"].tolist() == batch["condition"][
        "class_labels"
    ].tolist() == [0, 3]
    assert torch.equal(batch["start"], walks.state(3).x[[0, 3]]) and torch.equal(batch["end"], walks.state(6).x[[0, 3]])
    assert len(batch["memory"]) == 1 and torch.equal(batch["memory"][0], walks.state(3).memory[0][[0, 3]])
    assert batch["noise"] == [None] * 3


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_walks_that_were_interrupted_go_on_batch_by_batch_to_the_same_bits(eta, tmp_path):
    sampler, shape, kept = sampler_of(eta=eta), (7, 1, 3, 3), [7, 4, 4, 7, 4, 7]
    begun = []

    def network(condition):
        begun.append(1)
        return exact(condition)

    def dying(condition):
        if len(begun) == 2:
            raise KeyboardInterrupt
        return network(condition)

    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    compute_walks(tmp_path / "whole", exact, sampler, {}, shape, 3, kept, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        compute_walks(tmp_path / "killed", dying, sampler, {}, shape, 3, kept, batch_size=2)
    compute_walks(tmp_path / "killed", network, sampler, {}, shape, 3, kept, batch_size=2)
    assert len(begun) == 4  # of 7 walks in batches of 2
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "killed" / file.name).read_bytes()
    (tmp_path / "killed" / "x-5.npy").write_bytes(b"")
    compute_walks(tmp_path / "killed", network, sampler, {}, shape, 3, kept, batch_size=2)
    assert len(begun) == 8  # nothing to go on with
