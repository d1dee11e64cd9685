"""One process works on a run at a time: a lock on the run's directory that dies with its process.

The lock is `fcntl.lockf`'s, a record lock of POSIX: it belongs to the process alone (not to the processes that load
data for it), ends with it however it ends, and holds between the machines of a network file system. Where a file system
has none, or keeps it to one machine, a sign of life counts: the lock's file, which its holder touches every few
seconds, and which says who holds it. Whether it still does is watched rather than worked out, since the clocks of two
machines need not agree.
"""

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from quantlab.errors import RequestError
from quantlab.run.log import say

try:
    import fcntl
except ImportError:  # Windows: the sign of life alone
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
SIGN_EVERY, DEAD_AFTER = 5.0, 15.0  # seconds
LONG_AGO = 3600.0  # seconds; more than clocks differ

# Closing any descriptor of a file ends this process's record locks on it, so a run that is held here is not opened.
_held: set[str] = set()
# Signs of life that were watched in vain, by file and time.
_silent: set[tuple[str, float]] = set()


class RunLock:
    """The lock of the run in `directory`."""

    def __init__(self, directory: Path):
        self.path = directory / NAME
        self._descriptor: int | None = None
        self._ended = threading.Event()
        self._key = ""

    def acquire(self) -> None:
        """Take it. Where only a sign of life of another machine's process stands against it, that is watched first.

        Raises: RequestError in one line where another holds it; OSError where the directory cannot be written.
        """
        key = str(self.path.resolve())
        descriptor = self._locked()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
            os.fsync(descriptor)  # or another machine sees nobody's name until the cache is written back
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._key = descriptor, key
        _held.add(key)
        threading.Thread(target=self._show_life, args=(descriptor,), daemon=True).start()

    def require_free(self) -> None:
        """Raises RequestError where another holds it, as `acquire` does, and takes nothing."""
        with contextlib.suppress(OSError):  # no file, or none that may be opened: `acquire` says it
            os.close(self._locked(create=0))

    def _locked(self, create: int = os.O_CREAT) -> int:
        """A descriptor of the file, locked."""
        key, watch = str(self.path.resolve()), _Watch()
        if key in _held:
            raise self._running(_this_process())
        while True:
            # anew each time: that is when a network file system looks for what others did
            descriptor = os.open(self.path, os.O_RDWR | create | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                holder, sign = _holder(descriptor), os.fstat(descriptor).st_mtime
                state = _state(descriptor, holder)
                if state == "free" or (key, sign) in _silent:
                    with contextlib.suppress(FileNotFoundError):
                        if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                            return descriptor  # and not one that its holder has just removed
                elif state == "held" or watch.changed(sign):
                    raise self._running(holder)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
            if state == "unsure" and watch.in_vain(sign, self.path.parent, holder):
                _silent.add((key, sign))

    def release(self) -> None:
        """End it, if it is held: the file goes with it."""
        if self._descriptor is None:
            return
        self._ended.set()
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None
        _held.discard(self._key)

    def is_held(self) -> bool:
        """Whether a process, this one or another, works on the run now."""
        if str(self.path.resolve()) in _held:
            return True
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except OSError:
            return False
        try:
            state, age = _state(descriptor, _holder(descriptor)), time.time() - os.fstat(descriptor).st_mtime
            return state == "held" or (state == "unsure" and age < DEAD_AFTER)
        finally:
            os.close(descriptor)

    def _running(self, holder: dict[str, Any]) -> RequestError:
        return RequestError(
            f"{self.path.parent}: {_named(holder)} is working on this run; wait until it has ended, or stop it (it"
            " saves a checkpoint), and resume then"
        )

    def _show_life(self, descriptor: int) -> None:
        while not self._ended.wait(SIGN_EVERY):
            with contextlib.suppress(OSError):
                os.utime(descriptor)


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= set(holder) else "another process"


class _Watch:
    """Over a sign of life that may be a dead process's: whether it is shown again."""

    def __init__(self) -> None:
        self.first, self.since = 0.0, 0.0  # the sign, and when it was seen

    def changed(self, sign: float) -> bool:
        """Whether the sign was shown again since the first that was seen."""
        return self.since > 0 and sign != self.first

    def in_vain(self, sign: float, directory: Path, holder: dict[str, Any]) -> bool:
        """Whether it was watched for long enough; else a moment passes."""
        if not self.since:
            self.first, self.since = sign, time.monotonic()
            whose = f"{directory}: {_named(holder)} had this run"
            say(f"quantlab: {whose}; watching {DEAD_AFTER:.0f} s whether it still does")
        time.sleep(min(1.0, SIGN_EVERY))
        return time.monotonic() - self.since > DEAD_AFTER


def _state(descriptor: int, holder: dict[str, Any]) -> str:
    """Of the file: held by another process, free (and, where the file system has locks, this process's from now on), or
    unsure: a process of another machine may hold it whose locks are not seen here.
    """
    has_locks = fcntl is not None
    try:
        if has_locks:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return "held"
    except OSError:
        has_locks = False
    if holder.get("host") == socket.gethostname() and (has_locks or not _exists(holder.get("pid"))):
        return "free"  # of this machine the lock, or the process, says all
    return "unsure" if holder and abs(time.time() - os.fstat(descriptor).st_mtime) < LONG_AGO else "free"


def _holder(descriptor: int) -> dict[str, Any]:
    """Who wrote the file last, as far as it says."""
    try:
        found = json.loads(os.pread(descriptor, 1000, 0))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _exists(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
