"""One command, one run: exit codes, and lines that say what to type."""

import errno
import os
import re
import sys
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from quantlab.errors import Interrupted, LoadingError, RequestError, RunError
from quantlab.run.directory import RunDirectory


def test_a_run_gets_its_typed_config_and_absolute_directory(command, runner, tmp_path):
    assert command("method.group_size=4", "output_dir=here", "seed=3")[0] == 0
    (config,), (typed,) = runner.configs, runner.typed
    assert (config.method.group_size, config.seed, config.resume) == (4, 3, None)
    assert config.output_dir == str(tmp_path / "here")
    assert typed == ["method.group_size=4", "output_dir=here", "seed=3"]
    assert not (tmp_path / "here" / ".hydra" / "hydra.yaml").exists() and not (tmp_path / "outputs").exists()


def test_default_directory_has_date_and_time(command, runner):
    assert command()[0] == 0
    assert re.search(r"/outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d$", runner.configs[0].output_dir)


@pytest.fixture
def stopped_clock(monkeypatch):
    class Clock:
        now = staticmethod(lambda: datetime(2025, 1, 31, 12))

    monkeypatch.setattr("hydra.core.utils.datetime", Clock)


@pytest.mark.parametrize("words", [(), ("output_dir='runs/${now:%H-%M-%S}'",)])
def test_runs_that_start_in_one_second_have_directories_of_their_own(command, runner, tmp_path, stopped_clock, words):
    assert [command(*words)[0] for _ in range(3)] == [0] * 3
    assert [Path(config.output_dir).name for config in runner.configs] == ["12-00-00", "12-00-00-2", "12-00-00-3"]
    assert all(RunDirectory(config.output_dir).state() == "completed" for config in runner.configs)


def test_sweeps_that_start_in_one_second_do_not_meet(command, runner, tmp_path, stopped_clock):
    for _ in range(2):
        assert command("-m", "seed=0,1")[0] == 0
    assert len(runner.configs) == 4 == len({config.output_dir for config in runner.configs})
    assert {Path(config.output_dir).parent.name for config in runner.configs} == {"12-00-00", "12-00-00-2"}


@pytest.mark.parametrize("words", [(), ("output_dir=new/run",), ("output_dir=mine",)])
def test_a_request_that_is_found_wrong_late_leaves_no_directory(command, runner, tmp_path, monkeypatch, words):
    def refuse(config, typed):
        raise RequestError("device: no such thing here")

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(sys.modules["quantlab.runner"], "run", refuse)
    assert command(*words)[0] == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_run_may_be_gone_on_with_on_this_machine_in_another_way(command, runner):
    runner.fails[0] = LoadingError("a process that loads data has died", "trainer.num_workers=0")
    code, _, err = command("output_dir=run", "trainer.num_workers=2")
    line = (
        f"quantlab: error: a process that loads data has died; go on with: quantlab resume={Path('run').absolute()}"
        " trainer.num_workers=0\n"
    )
    assert (code, err) == (1, line)
    runner.fails.clear()
    code, _, err = command("resume=run", "trainer.num_workers=-1")
    assert code == 2 and "trainer.num_workers" in err
    assert command(*line.split()[-2:])[0] == 0
    assert runner.configs[-1].trainer.num_workers == 0 and runner.configs[-1].output_dir == runner.configs[0].output_dir


@pytest.mark.parametrize(
    "words, said",
    [
        (["method=acuquant"], ["method: got 'acuquant'", "did you mean 'accuquant'? Type method=accuquant"]),
        (
            ["method=_diffusion_ptq"],
            ["method: got '_diffusion_ptq', allowed: accuquant, evaluate, low_bit, pretrain, ptq, qat, sample"],
        ),
        (["quantiser.weight.bits=4"], ["quantiser.weight.bits: no such key", "Type quantizer.weight.bits=4"]),
        (["method.itrations=4"], ["did you mean 'method.iterations'? Type method.iterations=4"]),
        (["group_size=4"], ["did you mean 'method.group_size'?"]),
        (["seed=[1"], ["seed=[1: not an override that Hydra can read"]),
        (["data_dir=~/data"], ["type \"data_dir='~/data'\""]),
        (["accuquant"], ["not of the form key=value; did you mean method=accuquant?"]),
        (["seed=0,1"], ["type quantlab -m seed=0,1"]),
        (["model=glob(resnet*)"], ["type quantlab -m 'model=glob(resnet*)'"]),
        (
            ["+experiment=accuquant/small"],
            ["+experiment: no experiment is chosen a second time; type experiment=accuquant/small"],
        ),
        (["model@foo=ddim"], ["model@foo: no model is chosen at foo; type model=ddim"]),
        (["--package", "model"], ["--resolve, --package: only work together with --cfg; type --cfg job"]),
        (["--cfg", "jobs"], ["--cfg/-c: invalid choice: 'jobs'"]),
        (["--hlep"], ["--hlep: no such option; did you mean '--help'?"]),
        (["-m", "output_dir=a,b"], ["output_dir=a,b: cannot be swept"]),
        (["-m", "seed=interval(0,1)"], ["list the values, as in seed=0,1,2"]),
        (["-m", "seed=glob(*)"], ["glob chooses among the options of a group"]),
        (["-m", "model=glob(resnt*)"], ["matches no model, allowed: a pattern of ", "quantlab --help model lists all"]),
        (["-m", "hydra.verbose=true,false"], ["Hydra's own keys cannot be swept"]),
        (["model=resnt20", "task=digits", "method=pretrain"], ["did you mean 'resnet20'? Type model=resnet20"]),
        (["resume=nowhere"], ["resume: no such directory"]),
        (["resume=."], ["holds no run"]),
        (["resume=.", "seed=1", "-m"], ["drop seed=1 -m"]),
        (["cache_dir=${oc.env:QUANTLAB_NOT_SET}"], ["QUANTLAB_NOT_SET"]),
        (["model=task_classifier"], ["one of: ddim, ddim_mnist, ddpm_cifar10"]),
        (["output_dir=/dev/null/run"], ["output_dir: cannot write /dev/null/run"]),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(command, runner, tmp_path, words, said):
    code, out, err = command(*words)
    assert (code, out, runner.configs) == (2, "", [])
    assert err.startswith("quantlab: error: ") and err.count("\n") == 1
    assert all(part in err for part in said)
    assert list(tmp_path.iterdir()) == []


def test_every_problem_at_once(command):
    code, _, err = command(
        "method=ptq",
        "quantizer.weight.bits=9",
        "trainr.log_every=1",
        "seed=[1",
        "model=dimm",
        "method.reconstruction=blok",
        "logger.nmae=x",
    )
    lines = [line.removeprefix("quantlab: error: ").split(":")[0] for line in err.splitlines()]
    assert code == 2
    assert sorted(lines) == [
        "logger.nmae",
        "method.reconstruction",
        "model",
        "quantizer.weight.bits",
        "seed=[1",
        "trainr.log_every",
    ]


def test_an_unknown_option_does_not_condemn_its_keys(command):
    code, _, err = command("method=low_bits", "method.schedule=cosine", "model=task_classifier")
    assert code == 2 and err.count("\n") == 1 and "method: got 'low_bits'" in err


def test_a_directory_that_holds_a_run_is_never_overwritten(command, runner):
    assert command("output_dir=run")[0] == 0
    code, _, err = command("output_dir=run", "seed=1")
    assert code == 2 and len(runner.configs) == 1
    assert "already holds a run" in err and "quantlab resume=" in err


@pytest.mark.parametrize(
    "error, code, said",
    [
        (RunError("loss is NaN at step 3"), 1, "quantlab: error: loss is NaN at step 3"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/metrics.jsonl"),
            1,
            "quantlab: error: No space left on device: /run/metrics.jsonl; make room, then type quantlab resume={run}",
        ),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "quantlab: error: ZeroDivisionError: division by zero (HYDRA_FULL_ERROR=1 shows the traceback)",
        ),
    ],
)
def test_a_failed_run_is_one_line(command, runner, tmp_path, error, code, said):
    runner.fails[0] = error
    assert command("output_dir=run") == (code, "", said.replace("{run}", str(tmp_path / "run")) + "\n")


def test_the_traceback_is_shown_on_request(command, runner, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    runner.fails[0] = RunError("loss is NaN")
    code, _, err = command("output_dir=run")
    assert code == 1 and "Traceback" in err and err.endswith("quantlab: error: loss is NaN\n")


@pytest.mark.parametrize("number, code", [(2, 130), (15, 143)])
def test_an_interrupted_run_says_how_to_resume_and_does(command, runner, tmp_path, number, code):
    runner.fails[0] = Interrupted(number)
    got, _, err = command("output_dir='a run'")
    line = err.splitlines()[-1]
    assert got == code and line == f"quantlab: resume with: quantlab 'resume={tmp_path / 'a run'}'"

    runner.fails.clear()
    assert command(f"resume={tmp_path / 'a run'}")[0] == 0
    before, after = runner.configs
    assert after == before.model_copy(update={"resume": str(tmp_path / "a run")})
    assert runner.typed[0] == runner.typed[1]


@pytest.mark.parametrize("number, code", [(2, 130), (15, 143)])
@pytest.mark.parametrize("remade", [False, True])
def test_a_signal_before_the_run_begins_ends_the_command(command, runner, tmp_path, monkeypatch, number, code, remade):
    def interrupted(*_, **__):
        try:
            os.kill(os.getpid(), number)
        except BaseException as error:
            raise TypeError("something went wrong") if remade else error  # noqa: B904

    monkeypatch.setattr("quantlab.cli.job.judged", interrupted)
    assert command("output_dir=run") == (code, "", f"quantlab: interrupted by signal {number}\n")
    assert runner.configs == [] and list(tmp_path.iterdir()) == []


def test_a_completed_run_is_not_resumed(command, runner):
    command("output_dir=run")
    code, _, err = command("resume=run")
    assert code == 2 and len(runner.configs) == 1
    assert "already completed; results in" in err and err.strip().endswith("run/results.json")


def test_a_config_of_a_run_that_was_tampered_with_is_refused(command, runner):
    runner.fails[0] = RunError("stop")
    command("output_dir=run")
    file = Path("run/config.yaml")
    content = yaml.safe_load(file.read_text())
    content["model"]["_target_"] = "os.system"
    file.write_text(yaml.safe_dump(content))
    code, _, err = command("resume=run")
    assert code == 2 and "may not be instantiated" in err and len(runner.configs) == 1


def test_only_the_first_process_of_torchrun_makes_the_directory(command, runner, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command("output_dir=run")[0] == 0
    assert runner.configs[0].output_dir == str(tmp_path) and not (tmp_path / "run").exists()
    code, _, err = command("-m", "seed=0,1")
    assert code == 2 and "torchrun" in err


def test_paths_with_odd_characters(command, runner, tmp_path):
    assert command('output_dir="it\'s a=b, c"')[0] == 0
    assert runner.configs[0].output_dir == str(tmp_path / "it's a=b, c")


@pytest.mark.parametrize("key", ["cache_dir", "output_dir"])
def test_a_place_that_cannot_be_written_is_refused_and_leaves_nothing(key, command, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere/at/all")
    for place in ("file", "file/below", "link", "x" * 300):
        for words in ((), ("-m", "seed=0,1")):
            code, out, err = command(*words, f"{key}={tmp_path / place}")
            assert code == 2 and f"error: {key}: " in err and len(err.splitlines()) == 1, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
