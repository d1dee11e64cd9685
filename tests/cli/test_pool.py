"""Processes of a pool: none takes another with it, none outlives the pool."""

import operator
import os
import signal
import subprocess
import sys
import time

import pytest

from quantlab.cli.launchers import pool
from quantlab.cli.launchers.pool import Call, places_of, run_all
from quantlab.errors import Interrupted
from quantlab.run.signals import interruptible


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(pool, "LOADED_ONCE", [])


def test_what_raises_dies_or_is_killed_takes_no_other_with_it(tmp_path):
    calls = [
        Call(operator.truediv, (1, 0), tmp_path / "raises"),
        Call(os._exit, (3,), tmp_path / "exits"),
        Call(signal.raise_signal, (signal.SIGKILL,), tmp_path / "killed"),
        Call(print, ("said",), tmp_path / "sound"),
        Call(os.system, ("echo $OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES",), tmp_path / "shell"),
    ]
    codes = {}
    run_all(calls, [{"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "7"}] * 2, codes.__setitem__)
    assert codes == {0: 1, 1: 3, 2: -9, 3: 0, 4: 0}
    assert "ZeroDivisionError" in (tmp_path / "raises").read_text()
    assert (tmp_path / "sound").read_text() == "said\n" and (tmp_path / "shell").read_text() == "3 7\n"


def test_so_many_at_a_time(tmp_path):
    calls = [Call(time.sleep, (0.2,), tmp_path / f"{number}") for number in range(4)]
    started, ends = time.monotonic(), []
    run_all(calls, [{}] * 2, lambda index, code: ends.append(time.monotonic()))
    assert len(ends) == 4 and ends[-1] - started > 0.4


def test_threads_are_divided_and_gpus_take_turns(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert places_of(3, 2, [4, 5]) == [{"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("4", "5", "4")]
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    assert places_of(1, 2) == [{}]


def test_a_signal_ends_all_processes_once_they_have_ended_themselves(tmp_path):
    # the shell says what it got, and ends in its own time
    trap = f"trap 'echo got >> {tmp_path}/said; exit 0' INT"
    script = f"{trap}; touch {tmp_path}/$$.up; for i in {{1..600}}; do sleep 0.05; done"
    code = f"""
import os, signal, subprocess, sys
def last(): os.execvp("bash", ["bash", "-c", {script!r}])
"""
    (tmp_path / "shells.py").write_text(code)
    sys.path.insert(0, str(tmp_path))
    try:
        from shells import last

        def interrupt():
            if len(list(tmp_path.glob("*.up"))) == 2:
                signal.raise_signal(signal.SIGINT)

        calls = [Call(last, (), tmp_path / f"{number}") for number in range(3)]
        with interruptible(), pytest.raises(Interrupted):
            run_all(calls, [{}] * 2, lambda index, code: None, interrupt)
    finally:
        sys.path.remove(str(tmp_path))
    assert (tmp_path / "said").read_text() == "got\n" * 2 and len(list(tmp_path.glob("*.up"))) == 2


def test_processes_end_with_a_pool_that_is_killed(tmp_path):
    code = f"""
import time
from pathlib import Path
from quantlab.cli.launchers import pool
pool.LOADED_ONCE = []
pool.run_all([pool.Call(time.sleep, (60,), Path({str(tmp_path)!r}) / "log")], [{{}}], print)
"""
    launcher = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    inside = [pid for pid in os.listdir("/proc") if pid.isdigit() and _prints_to(pid, tmp_path / "log")]
    launcher.kill()
    launcher.wait()
    assert len(inside) == 1
    while os.path.exists(f"/proc/{inside[0]}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{inside[0]}")


def _prints_to(pid, file):
    try:
        return os.readlink(f"/proc/{pid}/fd/1") == str(file)
    except OSError:
        return False
