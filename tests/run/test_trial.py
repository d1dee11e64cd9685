"""A run as a trial of a search, which asks whether it is worth its time."""

from pathlib import Path

import pytest

from quantlab.errors import RequestError
from quantlab.run.trial import Trial, carried_out, pruner_of, storage_of, trial_in

optuna = pytest.importorskip("optuna")
RATE = optuna.distributions.FloatDistribution(0, 1)


@pytest.mark.parametrize("direction, behind, ahead", [("minimize", 5.0, 0.5), ("maximize", 0.5, 5.0)])
def test_a_trial_behind_the_median_ends_at_that_validation(direction, behind, ahead, tmp_path):
    file = str(tmp_path / "optuna.journal")
    study = optuna.create_study(storage=storage_of(file), study_name="it", direction=direction)
    study.add_trial(
        optuna.trial.create_trial(
            params={"rate": 0.5}, distributions={"rate": RATE}, value=1.0, intermediate_values={2: 1.0, 4: 1.0}
        )
    )
    worse, better = (study.ask({"rate": RATE}).number for _ in range(2))
    options = {"n_startup_trials": 1, "n_warmup_steps": 2}

    def trial(number):
        return Trial(str(tmp_path / "run"), file, "it", number, "median", options, ("top1", "loss"))

    assert trial(worse).why_pruned(1, {"loss": behind}) is None  # warming up
    said = trial(worse).why_pruned(2, {"loss": behind, "other": 0.0})
    assert said == f"pruned after step 2 (validation_loss={behind:.4g}, median of the search)"
    assert trial(better).why_pruned(2, {"loss": ahead}) is None
    assert study.trials[worse].intermediate_values == {1: behind, 2: behind}
    assert study.trials[better].intermediate_values == {2: ahead}
    with pytest.raises(LookupError, match="its validation measures psnr, not top1 or loss"):
        trial(better).why_pruned(3, {"psnr": 1.0})


def test_only_the_run_in_its_directory_is_the_trial(tmp_path):
    trial = Trial(str(tmp_path / "run"), "optuna.journal", "it", 0, "median")
    with carried_out(trial):
        assert trial_in(tmp_path / "run") is trial and trial_in(Path("cache/run")) is None
        with carried_out(None):
            assert trial_in(tmp_path / "run") is None
    assert trial_in(tmp_path / "run") is None


def test_options_of_a_pruner_are_optunas():
    pruner_of("hyperband", {"max_resource": 9})
    with pytest.raises(RequestError, match="got startup_trials, allowed of median: n_startup_trials, .*did you mean"):
        pruner_of("median", {"startup_trials": 1})
    with pytest.raises(RequestError, match="pruner_options: not of halving .*reduction_factor"):
        pruner_of("halving", {"reduction_factor": 0})
