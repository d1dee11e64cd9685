"""Which checkpoints are kept, and which one is loaded where the last is damaged or half written."""

import errno
import logging
import os
import subprocess
import sys

import pytest
import torch
from run_files import assert_same

from quantlab.errors import CorruptFileError, RequestError
from quantlab.run.checkpoints import Checkpoints


def state_at(step):
    return {"weight": torch.full((4,), float(step)), "step": step}


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step, score in [(100, [3.0]), (200, [1.0]), (300, [2.0]), (400, [float("nan")])]:
        checkpoints.save(step, state_at(step), score, {"seed": 0})
    return checkpoints


def names(checkpoints):
    return sorted(file.name for file in checkpoints.directory.iterdir())


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_last_previous_and_best_are_kept(checkpoints):
    steps = ("step-00000200", "step-00000300", "step-00000400")
    assert names(checkpoints) == [f"{step}.{suffix}" for step in steps for suffix in ("json", "safetensors")]
    step, state, facts = checkpoints.load_latest()
    assert (step, facts) == (400, {"seed": 0, "step": 400, "score": None})
    assert_same(state, state_at(400))
    assert checkpoints.load_best()[0] == 200

    checkpoints.save(500, state_at(500), score=[0.5])
    assert {name[:13] for name in names(checkpoints)} == {"step-00000400", "step-00000500"}
    assert checkpoints.load_best()[0] == 500


def test_no_checkpoint_yet(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.load_latest() is None and checkpoints.load_best() is None


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_damaged_last_is_reported_and_the_previous_is_used(checkpoints, suffix, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("quantlab"), "propagate", True)
    flip_a_byte(checkpoints.directory / f"step-00000400.{suffix}")
    assert checkpoints.load_latest()[0] == 300
    (warning,) = caplog.records
    assert f"step-00000400.{suffix} is damaged" in warning.getMessage()

    checkpoints.save(350, state_at(350))
    assert checkpoints.load_latest()[0] == 350
    assert {name[:13] for name in names(checkpoints)} == {"step-00000200", "step-00000300", "step-00000350"}


def test_all_damaged_is_an_error_not_a_fresh_start(checkpoints):
    for file in checkpoints.directory.glob("*.safetensors"):
        flip_a_byte(file)
    with pytest.raises(CorruptFileError, match="no sound checkpoint in .*step-00000400.safetensors is damaged"):
        checkpoints.load_latest()


def test_a_renamed_checkpoint_is_refused(checkpoints):
    for suffix in ("json", "safetensors"):
        (checkpoints.directory / f"step-00000400.{suffix}").rename(checkpoints.directory / f"step-00000990.{suffix}")
    for asked in (checkpoints.load_latest, checkpoints.require_own):
        with pytest.raises(RequestError, match="step-00000990.json is the checkpoint of step 400, not of step 990"):
            asked()


def test_kill_between_the_two_files_leaves_the_older_checkpoint_latest(checkpoints):
    (checkpoints.directory / "step-00000400.json").unlink()
    (checkpoints.directory / ".step-00000400.json.77.tmp").write_text("half")
    assert checkpoints.load_latest()[0] == 300
    checkpoints.save(500, state_at(500))
    assert {name[:13] for name in names(checkpoints)} == {"step-00000200", "step-00000300", "step-00000500"}


@pytest.mark.parametrize("failing", [1, 2])
def test_full_disk_keeps_the_previous_checkpoint(checkpoints, monkeypatch, failing):
    calls = []
    real_fsync = os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(500, state_at(500))
    assert not list(checkpoints.directory.glob(".*"))
    assert checkpoints.load_latest()[0] == 400


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_file_size_limit_keeps_the_previous_checkpoint(checkpoints):
    code = """
import resource, sys, torch
from quantlab.run.checkpoints import Checkpoints
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Checkpoints(sys.argv[1]).save(500, {"weight": torch.zeros(100_000)})
except OSError as error:
    print(error.strerror)
"""
    command = [sys.executable, "-c", code, str(checkpoints.directory)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "File too large"
    assert not list(checkpoints.directory.glob(".*"))
    assert checkpoints.load_latest()[0] == 400
