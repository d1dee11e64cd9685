"""Trials that a search prunes by what they validate while they run."""

import json

import pytest

from quantlab.cli.main import main
from quantlab.errors import Pruned
from quantlab.run.directory import RunDirectory
from quantlab.run.trial import storage_of

optuna = pytest.importorskip("optuna")
OPTUNA = ("-m", "hydra/sweeper=optuna", "output_dir=sweep")
QAT = ("method=qat", "task=digits", "model=resnet20", "model.depth=8")


def states(folder="sweep"):
    study = optuna.load_study(study_name="quantlab", storage=storage_of(f"{folder}/optuna.journal"))
    return [trial.state.name for trial in study.trials]


@pytest.mark.parametrize(
    "words, said",
    [
        ((*QAT, "hydra.sweeper.pruner=medium"), "hydra.sweeper.pruner: got 'medium', allowed: none, median, halving,"),
        (
            (*QAT, "hydra.sweeper.pruner=median", "hydra.sweeper.pruner_options={warmup: 3}"),
            "hydra.sweeper.pruner_options: got warmup, allowed of median: n_startup_trials, n_warmup_steps,",
        ),
        (("method=ptq", "hydra.sweeper.pruner=median"), "hydra.sweeper.pruner: method=ptq validates nothing while it"),
    ],
)
def test_what_cannot_prune_is_one_line(command, runner, tmp_path, words, said):
    code, out, err = command(*OPTUNA, *words, "seed=0,1")
    assert (code, out, runner.configs, list(tmp_path.iterdir())) == (2, "", [], [])
    assert said in err and err.count("\n") == 1


def test_a_pruned_trial_is_one_and_is_not_started_again(command, runner):
    words = (*OPTUNA, *QAT, "hydra.sweeper.pruner=median", "hydra.sweeper.sampler=random", "seed=0,1")
    runner.fails = {0: Pruned("pruned after step 2")}
    code, out, err = command(*words, "hydra.sweeper.trials=8")
    # two directories, each begun once, however many trials have its values
    assert sorted(config.seed for config in runner.configs) == [0, 1] and code == 0
    lines = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.startswith("seed=")}
    assert lines == {"seed=0": "pruned", "seed=1": "completed"} and "best: 20 by seed=1" in out
    assert "quantlab: pruned after step 2\n" in err and "error" not in err
    assert set(states()) == {"PRUNED", "COMPLETE"} and len(states()) == 8

    code, _, _ = command(*words, "hydra.sweeper.trials=10")
    assert code == 0 and len(runner.configs) == 2 and len(states()) == 10


@pytest.mark.parametrize(
    "launcher",
    [
        (),
        pytest.param(("hydra/launcher=processes",), marks=pytest.mark.slow),
        pytest.param(("hydra/launcher=slurm", "hydra.launcher.cluster=local"), marks=pytest.mark.slow),
    ],
)
def test_a_job_stops_at_the_validation_that_prunes_it(launcher, tmp_path, capfd):
    folder = tmp_path / "sweep"
    words = (
        *("-m", "hydra/sweeper=optuna", "hydra.sweeper.pruner=median", "hydra.sweeper.trials=2", *launcher),
        "hydra.sweeper.pruner_options={n_startup_trials: 1}",
        *("method=pretrain", "task=digits", "model=resnet20", "model.depth=8", "model.width=2", "device=cpu"),
        *("model.pretrain.steps=6", "trainer.checkpoint_every=2", "model.pretrain.learning_rate=interval(0.01,0.1)"),
        *(f"output_dir={folder}", f"cache_dir={tmp_path / 'cache'}"),
    )
    folder.mkdir()
    study = optuna.create_study(
        storage=storage_of(str(folder / "optuna.journal")), study_name="quantlab", direction="maximize"
    )
    rate = optuna.distributions.FloatDistribution(0.01, 0.1)
    study.add_trial(  # which nothing can reach
        optuna.trial.create_trial(
            params={"model.pretrain.learning_rate": 0.02},
            distributions={"model.pretrain.learning_rate": rate},
            value=100.0,
            intermediate_values={4: 101.0, 6: 101.0},
        )
    )
    assert main(words) == 1  # the trial that was added has no directory
    assert states(folder) == ["COMPLETE", "PRUNED"], capfd.readouterr().err
    (run,) = map(RunDirectory, folder.glob("model.pretrain.learning_rate=*"))
    status = json.loads(run.status_path.read_text())
    assert status["state"] == "pruned" and status["exit_code"] == 0 and "pruned after step 4 (" in status["error"]
    assert [row["step"] for row in run.metrics.read() if "validation_top1" in row] == [2, 4]

    # by its own name it goes on, to its end
    assert main([f"resume={run.path}"]) == 0 and run.is_completed()
