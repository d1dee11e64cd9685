"""The batches of the trainer's loop, loaded by processes that may die, and that signals to the run must not reach."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from quantlab.methods.base import Method
from quantlab.tasks.base import each_tensor, iterate_batches


class StepBatches:
    """This process's share of the batch of each step from `start` to `total`; `workers`: processes that load them."""

    def __init__(self, method: Method, start: int, total: int, accelerator: Accelerator, workers: int):
        self.waiting = False  # whether the loop is waiting for a batch
        rank, processes = accelerator.process_index, accelerator.num_processes
        loader = DataLoader(
            method.dataset,
            batch_sampler=_Shares(method, range(start, total), rank, processes),
            collate_fn=_Collate(method.collate),
            num_workers=workers,
            worker_init_fn=leave_process_group,
            pin_memory=accelerator.device.type == "cuda",
        )
        self.batches = iter(loader) if start < total else ()

    def __iter__(self) -> Iterator:
        self.waiting = True
        try:
            for batch in iterate_batches(self.batches):
                self.waiting = False
                yield batch.content
                self.waiting = True
        finally:  # whoever catches a first death saves the run: the other processes end meanwhile
            self.waiting = False

    @contextmanager
    def no_death_inside_a_step(self) -> Iterator[None]:
        """torch raises the death of a loading process wherever the main thread is, half-way through an update too. Here
        it does so only while the loop waits for data; a death at another time is found when the next batch does not
        come.
        """
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
            yield
            return
        raises = signal.getsignal(signal.SIGCHLD)

        def on_death(number: int, frame: object) -> None:
            if self.waiting and callable(raises):
                raises(number, frame)

        signal.signal(signal.SIGCHLD, on_death)
        try:
            yield
        finally:
            self.batches = ()  # ends the processes, while none of them is waited for
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if raises is None else raises)


@dataclass
class _Batch:
    """A batch that is pinned by us: torch makes lists of the ranges in it."""

    content: Any

    def pin_memory(self) -> "_Batch":
        return _Batch(each_tensor(Tensor.pin_memory, self.content))


@dataclass
class _Collate:
    collate: Callable[[Any], Any]

    def __call__(self, items: Any) -> _Batch:
        return _Batch(self.collate(items))


class _Shares:
    """Batch sampler: what one of `processes` takes of the method's batch of every step."""

    def __init__(self, method: Method, steps: range, rank: int, processes: int):
        self.method, self.steps, self.rank, self.processes = method, steps, rank, processes

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list]:
        for step in self.steps:
            yield self.method.batch_indices(step)[self.rank :: self.processes]


def leave_process_group(worker: int) -> None:
    """Ctrl-C reaches a whole process group; a loading process that it stopped would take the run's last checkpoint
    with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
