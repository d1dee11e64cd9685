"""Real kills, cheaply: a run in a forked process, which sends itself a signal at a moment that the test chose."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from forks import forked


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


def interrupted_at(step: int, method: type, monkeypatch) -> None:
    """The next run of `method` is interrupted, as by Ctrl-C, in the middle of `step`; those after it are not."""
    original, calls = method.after_update, []

    def stop(self):
        calls.append(1)
        if len(calls) == step:
            monkeypatch.setattr(method, "after_update", original)
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(method, "after_update", stop)
