"""SIGINT and SIGTERM as one exception, raised where the run can bear it, and never lost.

    with interruptible():
        while ...:
            with deferred():    # a step is done whole or not at all
                step()

A signal is remembered until the outermost `interruptible` block ends. So whoever catches the exception on its way (a
library's `except BaseException`, a destructor) only delays it: `check`, `pending` and the end of the next `deferred`
block still tell of it, and `as_interrupted` finds it behind the error that it was remade as.

Only the main thread of a process receives signals; in any other thread `interruptible` and `deferred` do nothing.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from quantlab.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Signals belong to the process, and so does this: the first that came, and how many blocks of each kind are open.
_came: int | None = None
_deferring = 0
_interruptible = 0


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Interrupted` inside the block. Blocks nest; after the outermost the earlier
    handlers come back.
    """
    global _came, _interruptible
    if not _in_main_thread() or _interruptible:
        yield
        return
    # None stands for a handler that was not set from Python, and cannot be given back.
    before = {number: signal.signal(number, _on_signal) or signal.SIG_DFL for number in SIGNALS}
    _interruptible += 1
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _interruptible -= 1
        _came = None


@contextmanager
def deferred() -> Iterator[None]:
    """Hold a signal back until the block ends, then raise `Interrupted` for the first that came.

    Of nested blocks the outermost raises. An exception that leaves the block goes first: the signal keeps waiting,
    as `pending` tells.
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
    check()


def pending() -> bool:
    """Whether a signal has come, raised or not: time to finish early."""
    return _came is not None


def signal_that_came() -> int | None:
    """The number of the first signal, raised or not."""
    return _came


def check() -> None:
    """Raise `Interrupted` if a signal has come, which something may have caught since, unless it is `deferred`."""
    if _came is not None and not _deferring and _in_main_thread():
        raise Interrupted(_came)


def as_interrupted(error: BaseException) -> BaseException:
    """`error`; where a signal has come it is the `Interrupted` of it, caused by `error` unless that only stands for the
    signal.

    A run that a signal ends has ended by the signal, whatever else went wrong on the way out.
    """
    if _came is None or isinstance(error, Interrupted):
        return error
    interrupted = Interrupted(_came)
    interrupted.__cause__ = None if _stands_for_a_signal(error) else error
    return interrupted


def _stands_for_a_signal(error: BaseException | None) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _on_signal(number: int, frame: object) -> None:
    global _came
    if _came is None:
        _came = number
    if not _deferring:
        raise Interrupted(_came)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
