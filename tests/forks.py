"""Runs in other processes, cheaply: forked, so that torch is imported already.

A fork keeps to one thread, since OpenMP's do not survive it, and so must the runs that it is compared with:
`torch.set_num_threads(1)`.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from undrawn import undrawn

PATIENCE = 180  # seconds that processes may wait for each other


def started(work: Callable[[], int], log: Path) -> int:
    """The id of a process that does `work()` and exits with what it returns; `log` gets what it prints."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 (pytest's are in memory)
        torch.set_num_threads(1)
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def forked(work: Callable[[], int], log: Path) -> int:
    """Exit code of `work()` in a process of its own, negative where a signal killed it; `log` gets what it printed."""
    return os.waitstatus_to_exitcode(os.waitpid(started(work, log), 0)[1])


def in_two_processes(work: Callable[[int], int], folder: Path) -> tuple[int, str]:
    """The worse exit code of `work(0)` and `work(1)`, in two processes at once, and what both printed, also to logs in
    `folder`. Raises TimeoutError where they wait for each other without end.
    """
    logs = [folder / f"rank{rank}.log" for rank in range(2)]
    processes = [started(lambda rank=rank: work(rank), logs[rank]) for rank in range(2)]
    codes, deadline = {}, time.monotonic() + PATIENCE
    while len(codes) < len(processes) and time.monotonic() < deadline:
        for pid in set(processes) - codes.keys():
            ended, ending = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = abs(os.waitstatus_to_exitcode(ending))
        time.sleep(0.01)
    for pid in set(processes) - codes.keys():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    said = "\n".join(log.read_text() for log in logs)
    if len(codes) < len(processes):
        raise TimeoutError(said[-3000:])
    return max(codes.values()), said


def shared_run(words, folder: Path) -> tuple[int, str]:
    """`in_two_processes` the command, told what torchrun tells them: they share its work."""
    from accelerate.state import AcceleratorState

    from quantlab.cli.main import main

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def work(rank: int) -> int:
        os.environ.update({name: str(value) for name, value in (told | {"RANK": rank, "LOCAL_RANK": rank}).items()})
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run of this process was alone
        with undrawn():
            return main([*words])

    return in_two_processes(work, folder)
