"""SIGINT and SIGTERM as one exception, raised where the run can bear it.

    with interruptible():
        while ...:
            with deferred():    # a step is done whole or not at all
                step()

Only the main thread of a process receives signals; in any other thread `interruptible` and `deferred` do nothing.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from quantlab.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Signals belong to the process, and so does this: the first signal that waits, and how many `deferred` blocks are open.
_waiting: int | None = None
_deferring = 0


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Interrupted` inside the block; the earlier handlers come back after it."""
    global _waiting
    if not _in_main_thread():
        yield
        return
    # None stands for a handler that was not set from Python, and cannot be given back.
    before = {number: signal.signal(number, _on_signal) or signal.SIG_DFL for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _waiting = None


@contextmanager
def deferred() -> Iterator[None]:
    """Hold a signal back until the block ends, then raise `Interrupted` for the first that came.

    Of nested blocks the outermost raises. An exception that leaves the block goes first: the signal keeps waiting,
    as `pending` tells, until the next `deferred` block ends.
    """
    global _deferring
    if not _in_main_thread():
        yield
        return
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
    if _waiting is not None and not _deferring:
        _raise_waiting()


def pending() -> bool:
    """Whether a signal came and has not been raised yet: time to finish early."""
    return _waiting is not None


def _on_signal(number: int, frame: object) -> None:
    global _waiting
    _waiting = _waiting or number
    if not _deferring:
        _raise_waiting()


def _raise_waiting() -> None:
    global _waiting
    number, _waiting = _waiting, None
    assert number is not None
    raise Interrupted(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
