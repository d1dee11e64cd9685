"""One process works on a run at a time, and a lock ends with its process."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from quantlab.errors import RequestError
from quantlab.run import lock
from quantlab.run.directory import RunDirectory
from quantlab.run.lock import RunLock

HOLD = """
import sys, time
from pathlib import Path
from quantlab.run.lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    running = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "held\n"
    yield running
    running.kill()
    running.communicate()


def test_a_run_is_refused_while_another_process_works_on_it_and_free_when_that_is_killed(holder, tmp_path):
    assert RunLock(tmp_path).is_held()
    with pytest.raises(RequestError, match=f"process {holder.pid} on .* is working on this run") as caught:
        RunLock(tmp_path).acquire()
    assert "\n" not in str(caught.value)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not RunLock(tmp_path).is_held()
    ours = RunLock(tmp_path)
    ours.acquire()
    ours.release()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_does_not_keep_it(tmp_path):
    """As one that loads data does, which may outlive a process that is killed."""
    code = f"""
import os, time
from pathlib import Path
from quantlab.run.lock import RunLock
RunLock(Path({str(tmp_path)!r})).acquire()
pid = os.fork()
if pid == 0:
    time.sleep(60)
print(pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(done.stdout.readline())
    done.wait()
    try:
        assert not RunLock(tmp_path).is_held()
    finally:
        os.kill(child, signal.SIGKILL)


def test_one_process_holds_a_run_once(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {"seed": 0}, [])
    with pytest.raises(RequestError, match=f"process {os.getpid()} on"):
        RunDirectory.open(run.path)
    run.close()
    RunDirectory.open(run.path).close()
    assert not (run.path / ".lock").exists()


@pytest.mark.parametrize("age, taken", [(1, True), (lock.DEAD_AFTER + 1, False)])
def test_of_another_machine_whose_locks_are_not_seen_a_sign_of_life_counts(age, taken, tmp_path):
    file = tmp_path / ".lock"
    file.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    os.utime(file, (time.time() - age,) * 2)
    assert RunLock(tmp_path).is_held() == taken


def by_another_machine(tmp_path, age=1.0):
    file = tmp_path / ".lock"
    file.write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
    os.utime(file, (time.time() - age,) * 2)
    return file


@pytest.mark.parametrize("age", [1, 1800, -1800])  # of a clock that is right, slow, fast
def test_a_sign_of_life_that_is_shown_again_is_of_a_living_process(age, tmp_path, monkeypatch, capsys):
    file = by_another_machine(tmp_path, age)
    monkeypatch.setattr(lock, "DEAD_AFTER", 60.0)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: os.utime(file, (time.time() - age + 5,) * 2))
    with pytest.raises(RequestError, match="process 7 on elsewhere is working on this run"):
        RunLock(tmp_path).acquire()
    assert capsys.readouterr().err.count("process 7 on elsewhere had this run; watching 60 s") == 1


def test_a_sign_of_life_that_is_not_shown_again_is_of_a_dead_one_and_watched_once(tmp_path, monkeypatch):
    by_another_machine(tmp_path)
    monkeypatch.setattr(lock, "SIGN_EVERY", 0.01)
    monkeypatch.setattr(lock, "DEAD_AFTER", 0.03)
    RunLock(tmp_path).require_free()
    monkeypatch.setattr(lock, "DEAD_AFTER", 60.0)
    ours = RunLock(tmp_path)
    ours.acquire()
    assert json.loads((tmp_path / ".lock").read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    ours.release()


def test_of_a_process_that_ended_long_ago_nothing_is_watched(tmp_path, monkeypatch):
    by_another_machine(tmp_path, lock.LONG_AGO + 1)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: pytest.fail("watched"))
    ours = RunLock(tmp_path)
    ours.acquire()
    ours.release()


@pytest.mark.parametrize("pid, taken", [(os.getppid(), True), (2**22 + 1, False)])
def test_without_locks_of_the_file_system_the_process_and_its_sign_of_life_count(pid, taken, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    (tmp_path / ".lock").write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
    assert RunLock(tmp_path).is_held() == taken


def test_the_holder_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SIGN_EVERY", 0.01)
    ours, file = RunLock(tmp_path), tmp_path / ".lock"
    ours.acquire()
    os.utime(file, (0, 0))
    for _ in range(200):
        if file.stat().st_mtime:
            break
        time.sleep(0.01)
    assert file.stat().st_mtime > 0
    ours.release()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "outside").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError):
        RunLock(tmp_path / "run").acquire()
    assert (tmp_path / "outside").read_text() == "kept"
