"""Runs that stop: by a signal, a kill, a full disk, damaged files and data. Nothing is lost and bits repeat.

Every method under many kills: `test_resume.py`.
"""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time

import pytest
import torch
from kills import disturbed, signal_to_self
from run_files import results, status
from undrawn import undrawn

# 20 steps, which need no other run's weights
WORDS = (
    "method=low_bit",
    "model.depth=8",
    "model.width=4",
    "method.epochs=1",
    "method.batch_size=64",
    "device=cpu",
    "trainer.log_every=1",
    "trainer.checkpoint_every=4",
)


def wait_for_step(directory, step, process, timeout=120):
    metrics = directory / "metrics.jsonl"
    for _ in range(timeout * 50):
        if metrics.exists() and metrics.read_text().count("\n") >= step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("the run did not get there in time")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the forked runs
    with undrawn():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    from quantlab.cli.main import main

    directory = tmp_path_factory.mktemp("whole") / "run"
    assert main([*WORDS, f"output_dir={directory}", f"cache_dir={cache}"]) == 0
    return directory


def assert_same(directory, uninterrupted):
    assert results(directory)["metrics"] == results(uninterrupted)["metrics"]
    assert (directory / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
    assert status(directory)["state"] == "completed"


def last_saved(directory):
    return max(
        json.loads(file.read_text())["content"]["facts"]["step"]
        for file in (directory / "checkpoints").glob("step-*.json")
    )


@pytest.mark.parametrize(
    "number, code, moment, count",
    [(signal.SIGINT, 130, "training", 6), (signal.SIGTERM, 143, "write", 6), (signal.SIGTERM, 143, "evaluation", 3)],
)
def test_signal_saves_and_resume_gives_the_same_bits(number, code, moment, count, quantlab, tmp_path, uninterrupted):
    directory, log = tmp_path / "run", tmp_path / "log"
    assert disturbed([*WORDS, f"output_dir={directory}"], moment, count, log, signal_to_self(number)) == code
    assert f"quantlab resume={directory}" in log.read_text() and "Traceback" not in log.read_text()
    assert status(directory)["state"] == "interrupted" and status(directory)["exit_code"] == code
    if moment == "training":
        assert last_saved(directory) == 6  # before the next regular checkpoint
    assert quantlab(f"resume={directory}")[0] == 0
    assert_same(directory, uninterrupted)


@pytest.mark.parametrize("remade", [None, TypeError])
def test_a_signal_that_a_library_catches_ends_the_run_all_the_same(remade, tmp_path):
    def caught():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            if remade is not None:
                raise remade("something went wrong") from error

    directory, log = tmp_path / "run", tmp_path / "log"
    assert disturbed([*WORDS, f"output_dir={directory}"], "evaluation", 3, log, caught) == 143
    assert status(directory)["state"] == "interrupted" and not (directory / "results.json").exists()
    assert "went wrong" not in log.read_text() and "Traceback" not in log.read_text()


def test_a_signal_while_the_results_are_written_leaves_a_completed_run(tmp_path):
    from quantlab.run.directory import RunDirectory

    write = RunDirectory.write_results

    def interrupted(self, content):
        os.kill(os.getpid(), signal.SIGINT)
        write(self, content)

    directory, log = tmp_path / "run", tmp_path / "log"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunDirectory, "write_results", interrupted)
        assert disturbed([*WORDS, "trainer.max_steps=2", f"output_dir={directory}"], "write", 0, log) == 130
    assert status(directory)["state"] == "completed" and results(directory)["cost"]["steps"] == 2
    assert "resume" not in log.read_text()


@pytest.fixture(scope="module")
def killed(tmp_path_factory, cache):
    """A run that `kill -9` ended, as a shell sends it."""
    import subprocess

    directory = tmp_path_factory.mktemp("killed") / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, "-m", "quantlab.cli", *WORDS, f"output_dir={directory}", f"cache_dir={cache}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    wait_for_step(directory, 11, running)  # nine steps, and what is said of two checkpoints
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL and status(directory)["state"] == "running"
    return directory


def test_kill_9_and_resume_gives_the_same_bits(killed, quantlab, tmp_path, uninterrupted):
    directory = shutil.copytree(killed, tmp_path / "run")
    with open(directory / "metrics.jsonl", "a") as file:
        file.write('{"step": 21, "lo')  # and the last line was torn
    assert quantlab(f"resume={directory}")[0] == 0
    assert_same(directory, uninterrupted)


def test_damaged_last_checkpoint_falls_back_to_the_previous(killed, quantlab, tmp_path, uninterrupted):
    directory = shutil.copytree(killed, tmp_path / "run")
    *_, last = sorted((directory / "checkpoints").glob("step-*.safetensors"))
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    code, _, err = quantlab(f"resume={directory}")
    assert code == 0 and last.stem in err
    assert_same(directory, uninterrupted)


def test_a_loading_process_that_dies_costs_nothing(quantlab, tmp_path, uninterrupted):
    directory, log = tmp_path / "run", tmp_path / "log"
    code = disturbed(
        [*WORDS, "trainer.num_workers=2", f"output_dir={directory}"],
        "training",
        6,
        log,
        lambda: multiprocessing.active_children()[0].kill(),
    )
    said = [line for line in log.read_text().splitlines() if line.startswith("quantlab: error")]
    assert code == 1 and len(said) == 1 and "a process that loads data has died" in said[0]
    words = said[0].partition("go on with: quantlab ")[2].split()
    assert words == [f"resume={directory}", "trainer.num_workers=0"]
    assert last_saved(directory) == json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])["step"] >= 6
    assert quantlab(*words)[0] == 0
    assert_same(directory, uninterrupted)


@pytest.mark.parametrize("validating", [False, True])
def test_data_that_cannot_be_read_cost_nothing(validating, quantlab, tmp_path, monkeypatch, uninterrupted):
    from quantlab.tasks.base import ImageDataset

    directory, read = tmp_path / "run", ImageDataset.__getitems__

    def cut_off(self, indices):
        metrics = directory / "metrics.jsonl"
        done = metrics.read_text().count('"loss"') if metrics.exists() else 0
        if done == 8 and (len(self) < 200) == validating:  # the validation part is the smaller
            raise OSError(errno.EIO, os.strerror(errno.EIO), "images.npz")
        return read(self, indices)

    monkeypatch.setattr(ImageDataset, "__getitems__", cut_off)
    code, _, err = quantlab(*WORDS, f"output_dir={directory}")
    said = [line for line in err.splitlines() if line.startswith("quantlab: error")]
    assert code == 1 and said == [
        "quantlab: error: loading data failed: [Errno 5] Input/output error: 'images.npz'; "
        f"go on with: quantlab resume={directory}"
    ]
    assert last_saved(directory) == 8 and status(directory)["state"] == "failed"
    monkeypatch.undo()
    assert quantlab(f"resume={directory}")[0] == 0
    assert_same(directory, uninterrupted)


def test_completed_run_is_neither_resumed_nor_overwritten(quantlab, uninterrupted):
    before = (uninterrupted / "results.json").read_bytes()
    code, _, err = quantlab(f"resume={uninterrupted}")
    assert code == 2 and "completed" in err
    code, _, err = quantlab(*WORDS, f"output_dir={uninterrupted}")
    assert code == 2 and "already holds a run" in err
    assert (uninterrupted / "results.json").read_bytes() == before


def test_full_disk_leaves_the_last_checkpoint_and_says_so(quantlab, tmp_path, monkeypatch, uninterrupted):
    from quantlab.run import checkpoints

    directory, original, calls = tmp_path / "run", checkpoints.save_state, []

    def save_state(path, *args, **kwargs):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(checkpoints, "save_state", save_state)
    code, _, err = quantlab(*WORDS, f"output_dir={directory}")
    assert code == 1 and "No space left" in err and f"resume={directory}" in err and "Traceback" not in err
    assert status(directory)["state"] == "failed"
    monkeypatch.undo()
    assert quantlab(f"resume={directory}")[0] == 0
    assert_same(directory, uninterrupted)
