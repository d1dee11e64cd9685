"""One process works on a run at a time: a lock on the run's directory that dies with its process.

The lock is `fcntl.lockf`'s, a record lock of POSIX: it belongs to the process alone (not to the processes that load
data for it), ends with it however it ends, and holds between the machines of a network file system. Where a file system
has none, or keeps it to one machine, a sign of life counts: the lock's file, which its holder touches every few
seconds, and which says who holds it.
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

try:
    import fcntl
except ImportError:  # Windows: the sign of life alone
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
SIGN_EVERY, DEAD_AFTER = 5.0, 30.0  # seconds

# Closing any descriptor of a file ends this process's record locks on it, so a run that is held here is not opened.
_held: set[str] = set()


class RunLock:
    """The lock of the run in `directory`."""

    def __init__(self, directory: Path):
        self.path = directory / NAME
        self._descriptor: int | None = None
        self._ended = threading.Event()
        self._key = ""

    def acquire(self) -> None:
        """Raises: RequestError in one line where another holds it; OSError where the directory cannot be written."""
        key = str(self.path.resolve())
        if key in _held:
            raise self._running(_this_process())
        descriptor = self._locked()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._key = descriptor, key
        _held.add(key)
        threading.Thread(target=self._show_life, args=(descriptor,), daemon=True).start()

    def _locked(self) -> int:
        """A descriptor of the file, locked."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                if _is_taken(descriptor):
                    raise self._running(_holder(descriptor))
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its holder has just ended, and removed it

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
            return _is_taken(descriptor)
        finally:
            os.close(descriptor)

    def refusal(self) -> RequestError:
        """What is said to whoever wants a run that is held."""
        with contextlib.suppress(OSError, ValueError):
            return self._running(json.loads(self.path.read_text()))
        return self._running({})

    def _running(self, holder: dict[str, Any]) -> RequestError:
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        return RequestError(
            f"{self.path.parent}: {who} is working on this run; wait until it has ended, or stop it (it saves a"
            " checkpoint), and resume then"
        )

    def _show_life(self, descriptor: int) -> None:
        while not self._ended.wait(SIGN_EVERY):
            with contextlib.suppress(OSError):
                os.utime(descriptor)


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _is_taken(descriptor: int) -> bool:
    """Whether another process holds the file; else this one does from now on, where the file system has locks."""
    has_locks = fcntl is not None
    try:
        if has_locks:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        has_locks = False
    holder = _holder(descriptor)
    if holder.get("host") == socket.gethostname() and (has_locks or not _exists(holder.get("pid"))):
        return False  # of this machine the lock, or the process, says all
    return bool(holder) and time.time() - os.fstat(descriptor).st_mtime < DEAD_AFTER


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
