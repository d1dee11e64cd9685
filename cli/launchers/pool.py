"""Calls, each in a process of its own, so many at a time.

Processes come from a server that has loaded torch once and done nothing else: a process begins in milliseconds, and
shares no thread, no handle and no CUDA context with another. A terminal's Ctrl-C reaches the pool alone, which passes
it on once; if the pool's own process is gone, however it ended, its processes end by SIGTERM: runs save a checkpoint.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from quantlab.errors import Interrupted
from quantlab.run.log import say

LOADED_ONCE = ["quantlab.runner", "quantlab.report.figures", "matplotlib.pyplot"]
REDRAW_EVERY = 1.0  # seconds


class Call(NamedTuple):
    """`function(*arguments)` returns its exit code; `log` gets what it prints."""

    function: Callable[..., int]
    arguments: tuple[Any, ...]
    log: Path


def run_all(
    calls: Sequence[Call],
    places: Sequence[Mapping[str, str]],
    ended: Callable[[int, int], None],
    waiting: Callable[[], object] = lambda: None,
) -> None:
    """Carry out all calls, as many at a time as there are `places`: each the environment variables of its process.

    ended: told of each call's index and exit code, negative where a signal killed it; waiting: called every second.
    Raises Interrupted, once all processes have ended: by the same signal, or where another comes, by SIGKILL.
    """
    context = _context(places[0])
    left, free = deque(enumerate(calls)), deque(places)
    running: dict[int, tuple[Any, int, Mapping[str, str]]] = {}
    try:
        while left or running:
            while left and free:
                index, call = left.popleft()
                place = free.popleft()
                process = context.Process(target=_carry_out, args=(*call, {**os.environ, **place}))
                with _without_main():
                    process.start()
                running[process.sentinel] = (process, index, place)
            for sentinel in wait(list(running), timeout=REDRAW_EVERY):
                process, index, place = running.pop(sentinel)
                process.join()
                free.append(place)
                ended(index, process.exitcode)
            waiting()
    except BaseException as error:
        number = error.exit_code - 128 if isinstance(error, Interrupted) else signal.SIGTERM
        _stop([process for process, *_ in running.values()], number)
        raise


def places_of(workers: int, threads: int, gpus: Sequence[int] = ()) -> list[dict[str, str]]:
    """The environment of each of `workers`: so many threads, unless OMP_NUM_THREADS is set, and one of `gpus` each."""
    shared = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
    return [
        {**shared, **({"CUDA_VISIBLE_DEVICES": str(gpus[number % len(gpus)])} if gpus else {})}
        for number in range(workers)
    ]


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _context(place: Mapping[str, str]) -> Any:
    """Of multiprocessing, with its server started where there is one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED_ONCE)
    # Whatever asks for CUDA while it is imported must not begin it: it cannot be begun again after a fork.
    with _without_main(), _environment({**place, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}):
        forkserver.ensure_running()
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """A new process would otherwise run the script that called us once more, to find functions there."""
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _stop(processes: Sequence[Any], number: int) -> None:
    """End `processes` by that signal, and wait until they have saved what they do; a second signal kills them."""
    if not processes:
        return
    say(f"quantlab: stopping {len(processes)} jobs, which save a checkpoint first; Ctrl-C again kills them")
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
    try:
        for process in processes:
            process.join()
    except (Interrupted, KeyboardInterrupt):
        for process in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # with those that load its data
            process.kill()
            process.join()


# in the new process ---------------------------------------------------------------------------------------------------
def _carry_out(
    function: Callable[..., int], arguments: tuple[Any, ...], log: Path, environment: Mapping[str, str]
) -> None:
    if hasattr(os, "setsid"):
        os.setsid()
    # What a shell starts in the background ignores Ctrl-C; but here it comes from the pool, which passes it on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    _print_to(log)
    _set_threads(environment)
    threading.Thread(target=_end_with_the_pool, daemon=True).start()
    sys.exit(function(*arguments))


def _print_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, onto in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(descriptor, onto)
    os.close(nothing)
    os.close(file)
    # Those of multiprocessing's server may be closed, or buffered as for a terminal.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115


def _set_threads(environment: Mapping[str, str]) -> None:
    """torch read OMP_NUM_THREADS when it was loaded, perhaps for an earlier sweep."""
    threads = environment.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))


def _end_with_the_pool() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
