"""A search: trials by ask and tell, which goes on when typed again."""

import pytest

from quantlab.cli.hydra_context import hydra_context
from quantlab.cli.overrides import parse
from quantlab.cli.search_space import Dimension, dimension_of
from quantlab.errors import Interrupted, RunError

OPTUNA = ("-m", "hydra/sweeper=optuna")


@pytest.mark.parametrize(
    "word, dimension",
    [
        ("a.b=interval(0.1,0.9)", Dimension("a.b", (), 0.1, 0.9)),
        ("a=int(interval(1,9))", Dimension("a", (), 1, 9)),
        ("a=tag(log,interval(1e-4,1))", Dimension("a", (), 1e-4, 1.0, log=True)),
        ("a=range(1,9,2)", Dimension("a", (), 1, 7, 2)),
        ("a=tag(log,range(1,9))", Dimension("a", (), 1, 8, log=True)),
        ("method=ptq,accuquant", Dimension("method", ("ptq", "accuquant"))),
        ("a=choice(4,8)", Dimension("a", ("4", "8"))),
    ],
)
def test_the_space_is_hydras_sweep_syntax(word, dimension):
    with hydra_context(None):
        parsed, problems = parse([word], multirun=True, searching=True)
    assert problems == [] and dimension_of(parsed[0]) == dimension


@pytest.mark.parametrize(
    "words, said",
    [
        (("seed=interval(5,1)",), "seed=interval(5,1): allowed: an interval from a number to a larger one"),
        (("seed=tag(log,interval(0,1))",), "a logarithmic space begins above 0"),
        (("seed=0",), "hydra/sweeper=optuna: there is nothing to search"),
        (("seed=0,1", "hydra.sweeper.trails=3"), "did you mean 'hydra.sweeper.trials'?"),
        (("seed=0,1", "hydra.sweeper.sampler=tpa"), "hydra.sweeper.sampler: got 'tpa', allowed: tpe, random, qmc, gp"),
        (("quantizer.weight.bits=4,9",), "quantizer.weight.bits: got 9, allowed"),
        (("seed=0,1", "--dry-run"), "--dry-run: a search chooses its jobs as it goes"),
    ],
)
def test_what_makes_no_search_is_one_line(command, runner, tmp_path, words, said):
    pytest.importorskip("optuna")
    code, out, err = command(*OPTUNA, "method=ptq", *words)
    assert (code, out, runner.configs, list(tmp_path.iterdir())) == (2, "", [], [])
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize("storage", ["null", pytest.param("sqlite:///study.db", marks=pytest.mark.slow)])
def test_a_search_is_gone_on_with_and_a_failed_trial_is_one(command, runner, storage):
    optuna = pytest.importorskip("optuna")
    words = (*OPTUNA, "seed=range(0,50)", "output_dir=sweep", f"hydra.sweeper.storage='{storage}'")
    words = words if storage != "null" else words[:-1]
    runner.fails = {seed: RunError("no") for seed in range(0, 50, 2)}
    code, out, err = command(*words, "hydra.sweeper.trials=3")
    seeds = [config.seed for config in runner.configs]
    assert 1 <= len(set(seeds)) <= 3 and code == int(any(seed % 2 == 0 for seed in seeds))
    if odd := [seed for seed in seeds if seed % 2]:
        assert f"best: {min(odd) + 1.25:.4g} by seed={min(odd)}, " in out

    command(*words, "hydra.sweeper.trials=4")
    url = storage if storage != "null" else None
    backend = optuna.storages.journal.JournalFileBackend("sweep/optuna.journal") if url is None else None
    study = optuna.load_study(study_name="quantlab", storage=url or optuna.storages.JournalStorage(backend))
    assert len(study.trials) == 4 and study.direction.name == "MINIMIZE"
    for trial in study.trials:
        seed = trial.params["seed"]
        assert trial.state.name == ("COMPLETE" if seed % 2 else "FAIL")
        assert trial.value == (seed + 1.25 if seed % 2 else None)


def test_a_trial_that_was_interrupted_is_made_whole(command, runner):
    pytest.importorskip("optuna")
    words = (*OPTUNA, "seed=range(0,50)", "output_dir=sweep", "hydra.sweeper.trials=2")
    runner.fails = dict.fromkeys(range(50), Interrupted(2))
    code, _, err = command(*words)
    assert code == 130 and len(runner.configs) == 1 and "resume with: quantlab -m hydra/sweeper=optuna" in err
    seed = runner.configs[0].seed
    runner.fails = {}
    code, out, _ = command(*words)
    assert code == 0 and runner.configs[1].seed == seed and runner.configs[1].resume is not None
    assert len(runner.configs) == 3

    code, _, err = command(*words, "method=ptq")
    assert code == 2 and "searches something else" in err and len(runner.configs) == 3


def test_a_metric_that_no_run_has_is_said(command, runner):
    pytest.importorskip("optuna")
    words = ("seed=0,1", "output_dir=sweep", "hydra.sweeper.trials=1", "hydra.sweeper.metric=top1")
    _, out, err = command(*OPTUNA, *words)
    assert "trial 1: has no metric top1, but psnr, fid_to_fp32; type hydra.sweeper.metric=psnr" in err
    assert "best" not in out
