"""Real kills, cheaply: a run in a forked process, which sends itself a signal at a moment that the test chose.

A fork has torch imported already. It keeps to one thread, since OpenMP's do not survive a fork, and so must the runs
that it is compared with: `torch.set_num_threads(1)`.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch


def signal_to_self(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


class Moments:
    """Counts what happens in a run, and does `act` at a chosen count: `training` (batches that a step has begun with),
    `evaluation` (calls of modules after the last step), `write` (files on the disk under their temporary name).
    """

    def __init__(self, kind: str, number: int, act: Callable[[], None]):
        self.kind, self.number, self.act = kind, number, act
        self.counts = {"training": 0, "evaluation": 0, "write": 0}
        self.in_fit = 0

    def happens(self, kind: str) -> None:
        self.counts[kind] += 1
        if kind == self.kind and self.counts[kind] == self.number:
            self.act()

    def __enter__(self) -> "Moments":
        from quantlab import trainer
        from quantlab.methods.base import Method
        from quantlab.run import atomic_files

        to_device, fit, fsync = trainer.to_device, trainer.Trainer.fit, os.fsync

        def step(batch, device):
            self.happens("training")
            return to_device(batch, device)

        def fitted(trainer, method: Method, description: str = ""):
            self.in_fit += 1
            try:
                return fit(trainer, method, description)
            finally:
                self.in_fit -= 1

        def called(module, inputs) -> None:
            if not self.in_fit:
                self.happens("evaluation")

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            self.happens("write")

        self.patches = [
            mock.patch.object(trainer, "to_device", step),
            mock.patch.object(trainer.Trainer, "fit", fitted),
            mock.patch.object(atomic_files.os, "fsync", synced),
        ]
        for patch in self.patches:
            patch.start()
        self.hook = torch.nn.modules.module.register_module_forward_pre_hook(called)
        return self

    def __exit__(self, *_) -> None:
        self.hook.remove()
        for patch in self.patches:
            patch.stop()


def forked(work: Callable[[], int], log: Path) -> int:
    """Exit code of `work()` in a forked process, negative where a signal killed it; `log` gets what it printed."""
    pid = os.fork()
    if pid == 0:
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
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def disturbed(
    words,
    kind: str,
    number: int,
    log: Path,
    act: Callable[[], None] = signal_to_self(signal.SIGKILL),  # noqa: B008
) -> int:
    """Exit code of `quantlab WORDS` in a forked process, to which `act`, by default SIGKILL, happens at moment
    `number` of `kind`.
    """
    from quantlab.cli.main import main

    def work() -> int:
        with Moments(kind, number, act):
            return main([*words])

    return forked(work, log)
