"""Sweeps: checked whole before the first job, never stopped by a failing one, gone on with when typed again."""

import json
from pathlib import Path

import pytest
from composed import composed
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from quantlab.cli.hydra_context import hydra_context
from quantlab.cli.job import job_directory_name
from quantlab.cli.multirun import summary
from quantlab.cli.overrides import parse
from quantlab.cli.request import Job, Request
from quantlab.config import validation
from quantlab.errors import Interrupted, RunError
from quantlab.run.directory import RunDirectory


def rows(out):
    """The summary's lines as {swept overrides: (state, metric, directory)}."""
    return {line.split("  ")[0]: tuple(line.split()[-3:]) for line in out.splitlines()[1:]}


def test_every_combination_has_a_directory_named_by_what_is_swept(command, runner, tmp_path):
    code, out, err = command("-m", "seed=0,1", "method.group_size=4", "method=accuquant,ptq", "output_dir=sweep")
    assert code == 0
    jobs = [(seed, method) for seed in (0, 1) for method in ("accuquant", "ptq")]
    assert [(config.seed, config.method.name) for config in runner.configs] == jobs
    assert rows(out) == {
        f"seed={seed} method={method}": (
            "completed",
            f"fid_to_fp32={seed + 1.25}",
            str(tmp_path / f"sweep/method={method},seed={seed}"),
        )
        for seed, method in jobs
    }
    assert [config.output_dir for config in runner.configs] == [directory for *_, directory in rows(out).values()]
    assert "quantlab: job 2 of 4: seed=0 method=ptq\n" in err


def test_a_failing_job_hides_nothing_and_is_resumed_when_typed_again(command, runner, tmp_path):
    runner.fails[0] = RunError("loss is NaN")
    code, out, err = command("-m", "seed=0,1", "output_dir=sweep")
    assert code == 1 and "quantlab: error: loss is NaN\n" in err
    assert [state for state, *_ in rows(out).values()] == ["failed", "completed"]

    runner.fails.clear()
    runner.configs.clear()
    # Another device is the same experiment.
    code, out, _ = command("-m", "seed=0,1", "output_dir=sweep", "device=cpu")
    assert code == 0
    assert [(config.seed, config.resume) for config in runner.configs] == [(0, str(tmp_path / "sweep/seed=0"))]
    assert [state for state, *_ in rows(out).values()] == ["completed", "completed"]


def test_a_job_whose_results_are_gone_is_made_again(command, runner, tmp_path):
    command("-m", "seed=0,1", "output_dir=sweep")
    (tmp_path / "sweep/seed=0/results.json").unlink()
    runner.configs.clear()
    code, out, _ = command("-m", "seed=0,1", "output_dir=sweep")
    assert code == 0 and [config.resume for config in runner.configs] == [str(tmp_path / "sweep/seed=0")]
    assert (tmp_path / "sweep/seed=0/results.json").exists()


def test_a_job_that_another_process_works_on_is_left_to_it(command, runner, tmp_path):
    runner.fails[0] = RunError("stopped")
    command("-m", "seed=0,1", "output_dir=sweep")
    run = RunDirectory(tmp_path / "sweep/seed=0")
    run.write_status("running")
    run.lock.acquire()
    runner.configs.clear()
    code, out, err = command("-m", "seed=0,1", "output_dir=sweep")
    run.close()
    assert code == 1 and runner.configs == [] and "is working on this run" in err
    assert [state for state, *_ in rows(out).values()] == ["running", "completed"]


def test_another_experiment_in_a_job_directory_is_left_alone(command, runner):
    command("-m", "seed=0", "output_dir=sweep")
    before = Path("sweep/job/config.yaml").read_text()
    code, out, err = command("-m", "seed=1", "output_dir=sweep")
    assert code == 2 and len(runner.configs) == 1 and out == ""
    assert "sweep/job holds another experiment; type another output_dir" in err
    assert Path("sweep/job/config.yaml").read_text() == before


@pytest.mark.parametrize("number, code", [(2, 130), (15, 143)])
def test_a_signal_stops_the_whole_sweep(command, runner, tmp_path, number, code):
    runner.fails[0] = Interrupted(number)
    got, out, err = command("-m", "seed=0,1", "output_dir=sweep")
    assert got == code and len(runner.configs) == 1
    assert [line.split("  ")[1].strip() for line in out.splitlines()[1:]] == ["interrupted", "not started"]
    assert "resume=" not in err
    again = f"quantlab: resume with: quantlab -m seed=0,1 output_dir={tmp_path / 'sweep'}"
    assert err.splitlines()[-1] == again


def test_a_wrong_job_stops_the_sweep_before_it_starts(command, runner, tmp_path):
    code, out, err = command(
        "-m", "quantizer.weight.bits=4,9", "method=accuquant,ptq", "method.iterations=4", "trainer.log_every=0"
    )
    assert code == 2 and out == "" and runner.configs == [] and list(tmp_path.iterdir()) == []
    keys = [line.split(": ")[2] for line in err.splitlines()]
    assert sorted(keys) == ["method.iterations", "quantizer.weight.bits", "trainer.log_every"]
    assert "(job quantizer.weight.bits=4 method=ptq; 2 of 4 jobs)" in err


WHOLE = {"method": "qat", "task": "digits", "model": "resnet20", "bits": {}}


def test_the_main_metric_is_looked_up_in_order(tmp_path):
    found = [{"psnr": 1, "loss": 0.5}, {"psnr": 12.34567}, {"loss": 1, "fid_to_fp32": 1.5, "top1": 90}, {}]
    for number, metrics in enumerate(found):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/results.json").write_text(json.dumps(WHOLE | {"metrics": metrics}))
    config = composed()
    jobs = tuple(Job(config, tmp_path / f"{number}", swept=(f"seed={number}",)) for number in range(4))
    request = Request(("-m",), True, jobs, tmp_path)
    table = summary(request, ["completed"] * 4)
    assert [metric for _, metric, _ in rows(table).values()] == ["loss=0.5", "psnr=12.35", "fid_to_fp32=1.5", "-"]


def test_directory_names_are_one_short_component_each():
    assert job_directory_name("seed=0,method=ptq") == "seed=0,method=ptq"
    assert job_directory_name("") == "job"
    long = [job_directory_name("k=" + "x" * 200 + end) for end in "ab"]
    slashed = [job_directory_name("experiment=a/b"), job_directory_name("experiment=a_b")]
    for one, other in (long, slashed):
        assert one != other
        assert all(len(name) <= 150 and "/" not in name for name in (one, other))


@pytest.mark.parametrize(
    "word, values",
    [
        ("model=glob(resnet*)", ["resnet18", "resnet20", "resnet32", "resnet34", "resnet50", "resnet56"]),
        ("model=glob(resnet*,exclude=[resnet3*,resnet5*])", ["resnet18", "resnet20"]),
        ("model=glob([resnet2*,edsr])", ["edsr", "resnet20"]),
        ("model=glob(resnet2*)", ["resnet20"]),
        ("task=glob(*classification)", []),  # a part of tasks, not a task
        ("experiment=glob(qat/small/w2a2_adam*)", ["qat/small/w2a2_adam", "qat/small/w2a2_adamt"]),
        ("experiment=glob(*)", []),
        ("seed=range(1,4)", [1, 2, 3]),
        ("seed=choice(4,2)", [4, 2]),
        ("seed=sort(3,1,2,reverse=true)", [3, 2, 1]),
        ("seed=range(3,1)", []),
    ],
)
def test_functions_of_hydra_are_swept_over(command, word, values):
    key = word.split("=")[0]
    parsed, problems = _parsed(word)
    if values:
        assert problems == [] and list(parsed.sweep_iterator()) == values
    else:
        assert (
            parsed is None
            and problems[0].startswith(f"{word}: ")
            and ("matches no " + key in problems[0] or "holds no" in problems[0])
        )


def _parsed(word):
    with hydra_context(None):
        parsed, problems = parse([word], multirun=True)
    return (parsed[0] if parsed else None), problems


def test_shuffled_values_are_labelled_as_they_run(command, runner):
    code, out, err = command("-m", "seed=shuffle(range(0,4))", "output_dir=sweep")
    said = [int(line.rpartition("=")[2]) for line in err.splitlines() if "job" in line]
    assert code == 0 and said == [config.seed for config in runner.configs] and sorted(said) == list(range(4))


def test_options_and_overrides_in_any_order(command, runner):
    assert command("method=ptq", "-m", "seed=1,2", "output_dir=sweep", "method.group_size=4")[0] == 0
    assert [(config.method.name, config.seed, config.method.group_size) for config in runner.configs] == [
        ("ptq", 1, 4),
        ("ptq", 2, 4),
    ]


def test_what_only_the_runner_can_tell_is_asked_for_all_jobs_before_the_first(command, runner, tmp_path):
    runner.wrong[1] = ["model.architecture: timm has no 'resnt18'"]
    code, out, err = command("-m", "seed=0,1,2")
    assert (code, out, runner.configs, list(tmp_path.iterdir())) == (2, "", [], [])
    assert err == "quantlab: error: model.architecture: timm has no 'resnt18' (job seed=1; 1 of 3 jobs)\n"


@pytest.mark.parametrize(
    "words, composed, jobs",
    [((), 1, 1), (("-m", "seed=0,1,2"), 1, 3), (("-m", "quantizer=lsq,ewgs", "seed=0,1"), 2, 4)],
)
def test_each_choice_is_composed_once_and_each_job_validated_once(command, runner, monkeypatch, words, composed, jobs):
    counted = {"composed": 0, "validated": 0}
    compose, judge = ConfigLoaderImpl.load_configuration, validation._judge

    def composing(*arguments, **named):
        counted["composed"] += 1
        return compose(*arguments, **named)

    def judging(*arguments, **named):
        counted["validated"] += 1
        return judge(*arguments, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", composing)
    monkeypatch.setattr(validation, "_judge", judging)
    assert command("method=qat", *words, "output_dir=run")[0] == 0
    assert len(runner.configs) == jobs and counted == {"composed": composed, "validated": jobs}


def test_the_line_to_go_on_keeps_how_hydra_starts_the_jobs(command, runner, tmp_path):
    runner.fails[0] = Interrupted(2)
    words = ("-m", "hydra/launcher=basic", "+hydra.job.env_set.A=b", "seed=0,1")
    err = command(*words, "output_dir=sweep")[2]
    assert err.splitlines()[-1].endswith(f"quantlab {' '.join(words)} output_dir={tmp_path / 'sweep'}")


@pytest.mark.parametrize(
    "words, said",
    [
        (["seed=range(0,2000)"], "got 2,000 jobs (2,000 of seed), allowed: up to 1,000, with --yes up to 10,000;"),
        (["seed=range(0,100)", "method.group_size=range(1,12)"], "1,100 jobs (100 of seed x 11 of method.group_size)"),
        (["--yes", "seed=range(0,200)", "method.group_size=range(1,100)"], "got 19,800 jobs"),
        (["seed=range(0,1000000000000)"], "holds more than 10,000 values; type fewer"),
        (["seed=shuffle(range(0,1e300))"], "holds more than 10,000 values; type fewer"),
        (["seed=range(0,5,0)"], "never ends, allowed: a range of finite numbers by a step other than 0"),
        (["seed=range(0,inf)"], "never ends"),
        (["seed=range(1,0)"], "holds no value, allowed: at least one"),
        (["+x=" + "[" * 3000], "brackets are nested more than 100 levels deep"),
    ],
)  # fmt: skip
def test_sweeps_that_nobody_means_are_refused_at_once(command, runner, words, said):
    code, out, err = command("-m", *words)
    assert code == 2 and said in err and runner.configs == [] and len(err.splitlines()) == 1
