"""A sweep of twelve jobs in which two fail, one is killed, its launcher is killed, and one is interrupted: typed again,
it comes to ten right results and two failures, and nothing that was complete ran twice.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_files import results

from quantlab.cli.main import main
from quantlab.run.directory import RunDirectory

# The loss of a rate of 1e30 is NaN from its second step on.
RATES = [0.001 * number for number in range(1, 11)] + [1e30, 2e30]
JOB = (
    "method=pretrain",
    "task=digits",
    "model=resnet20",
    "model.depth=8",
    "model.width=2",
    "model.pretrain.steps=3",
    "trainer.checkpoint_every=1",
    "device=cpu",
)
LAUNCHERS = {
    "processes": ("hydra/launcher=processes", "hydra.launcher.workers=2"),
    "slurm": (
        "hydra/launcher=slurm",
        "hydra.launcher.cluster=local",
        "hydra.launcher.workers=2",
        "hydra.launcher.cpus=1",
    ),
    "ray": ("hydra/launcher=ray", "hydra.launcher.workers=2"),
}
NEEDS = {"processes": "hydra", "slurm": "submitit", "ray": "ray"}
LIMIT = 300.0  # seconds


class Sweep:
    """The sweep in `folder`, started from a shell."""

    def __init__(self, folder: Path, launcher: str):
        self.folder = folder
        rates = ",".join(map(repr, RATES))
        self.words = ["-m", *LAUNCHERS[launcher], *JOB, f"model.pretrain.learning_rate={rates}"]
        self.words += [f"output_dir={folder / 'sweep'}", f"cache_dir={folder / 'cache'}"]
        self.runs = [RunDirectory(folder / "sweep" / f"model.pretrain.learning_rate={rate!r}") for rate in RATES]
        self.written: dict[Path, int] = {}

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "quantlab.cli", *self.words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=self.folder
        )

    def completed(self) -> list[RunDirectory]:
        done = [run for run in self.runs if run.is_completed()]
        for run in done:  # each is seen written once
            time_of = run.results_path.stat().st_mtime_ns
            assert self.written.setdefault(run.path, time_of) == time_of, f"{run} ran twice"
        return done

    def a_running_one(self, shell: subprocess.Popen) -> tuple[RunDirectory, int]:
        """A job on which a process works, and the process."""
        return self.until(shell, lambda: next(filter(None, map(_worked_on, self.runs)), None))

    def until(self, shell: subprocess.Popen, found):
        deadline = time.monotonic() + LIMIT
        while not (value := found()):
            assert shell.poll() is None, shell.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return value

    def wait_for_the_jobs(self) -> None:
        deadline = time.monotonic() + LIMIT
        while any(run.lock.is_held() for run in self.runs):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _worked_on(run: RunDirectory) -> tuple[RunDirectory, int] | None:
    if run.state() == "running" and run.lock.is_held():
        try:
            return run, json.loads(run.lock.path.read_text())["pid"]
        except (OSError, ValueError):
            pass  # it has just ended
    return None


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_same_command_goes_on_whatever_was_killed(launcher, tmp_path, monkeypatch):
    if importlib.util.find_spec(NEEDS[launcher]) is None:
        pytest.skip(f"{NEEDS[launcher]} is not installed")
    sweep = Sweep(tmp_path, launcher)

    shell = sweep.start()
    killed, process = sweep.a_running_one(shell)
    os.kill(process, signal.SIGKILL)
    sweep.until(shell, lambda: len(sweep.completed()) >= 2)
    assert killed.state() in ("failed", "running") and not killed.is_completed()
    sweep.a_running_one(shell)
    shell.kill()
    shell.communicate()
    sweep.wait_for_the_jobs()
    done_before = len(sweep.completed())
    assert done_before < 10

    shell = sweep.start()
    sweep.a_running_one(shell)
    shell.send_signal(signal.SIGINT)
    out, _ = shell.communicate(timeout=LIMIT)
    assert shell.returncode == 130, out
    assert "resume with: quantlab -m" in out
    interrupted = [run for run in sweep.runs if run.state() == "interrupted"]
    assert interrupted or len(sweep.completed()) > done_before, out
    assert not any(run.lock.is_held() for run in sweep.runs)

    shell = sweep.start()
    out, _ = shell.communicate(timeout=LIMIT)
    assert shell.returncode == 1, out
    assert len(sweep.completed()) == 10 and [run.state() for run in sweep.runs[10:]] == ["failed", "failed"], out
    table = [line.split()[1] for line in out.splitlines() if line.startswith("model.pretrain.learning_rate=")]
    assert sorted(table) == ["completed"] * 10 + ["failed"] * 2

    # what was killed has the numbers of a run that nothing stopped
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for number, run in enumerate({killed.path: killed, **{one.path: one for one in interrupted}}.values()):
        alone = tmp_path / f"alone{number}"
        rate = run.path.name.partition("=")[2]
        words = (*JOB, f"model.pretrain.learning_rate={rate}", f"output_dir={alone}", f"cache_dir={tmp_path / 'cache'}")
        if rate not in ("1e+30", "2e+30"):
            assert main(words) == 0
            assert results(alone)["metrics"] == results(run.path)["metrics"]
