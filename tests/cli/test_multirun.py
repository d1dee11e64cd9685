"""Sweeps: checked whole before the first job, never stopped by a failing one, gone on with when typed again."""

import json
from pathlib import Path

import pytest

from quantlab.cli.jobs import job_directory_name
from quantlab.errors import Interrupted, RunError

SWEEP = ("-m", "seed=0,1,2", "method.iterations=5", "output_dir=sweep")


def rows(out):
    """The summary's lines as {swept overrides: (state, metric, directory)}."""
    return {line.split("  ")[0]: tuple(line.split()[-3:]) for line in out.splitlines()[1:]}


def test_every_job_has_a_directory_named_by_what_is_swept(command, runner, tmp_path):
    code, out, err = command(*SWEEP)
    assert code == 0
    assert [config.output_dir for config in runner.configs] == [str(tmp_path / f"sweep/seed={n}") for n in (0, 1, 2)]
    assert rows(out) == {f"seed={n}": ("completed", f"fid_to_fp32={n}.25", str(tmp_path / f"sweep/seed={n}"))
                         for n in (0, 1, 2)}
    assert "quantlab: job 2 of 3: seed=1" in err


def test_the_product_of_two_sweeps(command, runner):
    assert command("-m", "quantizer.weight.bits=3,4", "method=accuquant,ptq", "output_dir=sweep")[0] == 0
    assert [(config.quantizer.weight.bits, config.method.name) for config in runner.configs] == [
        (3, "accuquant"), (3, "ptq"), (4, "accuquant"), (4, "ptq"),
    ]
    assert {path.name for path in Path("sweep").iterdir() if path.is_dir()} == {
        f"method={method},quantizer.weight.bits={bits}" for method in ("accuquant", "ptq") for bits in (3, 4)
    }


def test_a_failing_job_neither_stops_nor_hides_the_others(command, runner):
    runner.fails[1] = RunError("loss is NaN")
    code, out, err = command(*SWEEP)
    assert code == 1 and "quantlab: error: loss is NaN" in err
    assert [state for state, *_ in rows(out).values()] == ["completed", "failed", "completed"]


def test_again_skips_the_completed_and_resumes_the_rest(command, runner, tmp_path):
    runner.fails[1] = RunError("loss is NaN")
    command(*SWEEP)
    runner.fails.clear()
    runner.configs.clear()
    code, out, _ = command(*SWEEP)
    assert code == 0
    assert [(config.seed, config.resume) for config in runner.configs] == [(1, str(tmp_path / "sweep/seed=1"))]
    assert [state for state, *_ in rows(out).values()] == ["completed"] * 3


def test_another_experiment_in_a_job_directory_is_left_alone(command, runner):
    command("-m", "seed=0,1", "output_dir=sweep")
    before = Path("sweep/seed=0/config.yaml").read_text()
    code, out, err = command("-m", "seed=0,1", "output_dir=sweep", "method.iterations=5")
    assert code == 1 and len(runner.configs) == 2
    assert err.count("holds another experiment") == 2
    assert rows(out)["seed=0"][:2] == ("failed", "-")
    assert Path("sweep/seed=0/config.yaml").read_text() == before


def test_device_does_not_make_another_experiment(command, runner):
    command("-m", "seed=0,1", "output_dir=sweep")
    assert command("-m", "seed=0,1", "output_dir=sweep", "device=cpu")[0] == 0
    assert len(runner.configs) == 2


@pytest.mark.parametrize("number, code", [(2, 130), (15, 143)])
def test_a_signal_stops_the_whole_sweep(command, runner, tmp_path, number, code):
    runner.fails[1] = Interrupted(number)
    got, out, err = command(*SWEEP)
    assert got == code and len(runner.configs) == 2
    assert [line.split("  ")[1].strip() for line in out.splitlines()[1:]] == ["completed", "interrupted", "not started"]
    again = f"quantlab: resume with: quantlab -m seed=0,1,2 method.iterations=5 output_dir={tmp_path / 'sweep'}"
    assert err.splitlines()[-1] == again

    runner.fails.clear()
    assert command(*again.split()[4:])[0] == 0
    assert [config.seed for config in runner.configs] == [0, 1, 1, 2]


def test_a_wrong_job_stops_the_sweep_before_it_starts(command, runner, tmp_path):
    code, out, err = command("-m", "seed=0,1", "quantizer.weight.bits=4,9", "method=accuquant,ptq",
                             "method.iterations=4", "trainer.log_every=0")
    assert code == 2 and out == "" and runner.configs == [] and list(tmp_path.iterdir()) == []
    keys = [line.split(": ")[2] for line in err.splitlines()]
    assert sorted(keys) == ["method.iterations", "quantizer.weight.bits", "trainer.log_every"]
    assert "(job seed=0 quantizer.weight.bits=4 method=ptq; 4 of 8 jobs)" in err


def test_the_main_metric_is_looked_up_in_order(command):
    command("-m", "seed=0,1", "output_dir=sweep")
    for seed, metrics in {0: {"psnr": 1, "loss": 0.5}, 1: {"psnr": 12.34567}}.items():
        Path(f"sweep/seed={seed}/results.json").write_text(json.dumps({"metrics": metrics}))
    _, out, _ = command("-m", "seed=0,1", "output_dir=sweep")
    assert [metric for _, metric, _ in rows(out).values()] == ["loss=0.5", "psnr=12.35"]


def test_a_sweep_over_nothing_is_one_job(command, runner, tmp_path):
    assert command("-m", "seed=4", "output_dir=sweep")[0] == 0
    assert runner.configs[0].output_dir == str(tmp_path / "sweep/job")


def test_directory_names_are_one_short_component_each():
    assert job_directory_name("seed=0,method=ptq") == "seed=0,method=ptq"
    assert job_directory_name("") == "job"
    long = [job_directory_name("k=" + "x" * 200 + end) for end in "ab"]
    slashed = [job_directory_name("experiment=a/b"), job_directory_name("experiment=a_b")]
    for one, other in (long, slashed):
        assert one != other
        assert all(len(name) <= 150 and "/" not in name for name in (one, other))
