"""The one loop of quantlab: steps, logging, checkpoints, resume, signals. What happens inside a step is the method's.

Every step seeds its own random numbers from (seed, step, process), and which data it sees depends only on the step. So a run
that is killed and resumed repeats the same bits as one that never stopped, and a checkpoint holds no generator states.
"""

import logging
import math
import os
import signal
import time

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from quantlab.checkpoint import Checkpoints
from quantlab.errors import Interrupted, RunError
from quantlab.methods.base import Method, run_length
from quantlab.run_directory import RunDirectory
from quantlab.signals import deferred, pending
from quantlab.tasks.base import loaded, to_device

logger = logging.getLogger("quantlab")


def seed_everything(*seed: int) -> None:
    """Seed torch's generators (all devices) from the integers given, well mixed."""
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))


class Batches:
    """Batch sampler: this process's share of the method's batch of every step from `start` on."""

    def __init__(self, method: Method, start: int, stop: int, rank: int, processes: int):
        self.method, self.steps, self.rank, self.processes = method, range(start, stop), rank, processes

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self):
        for step in self.steps:
            yield self.method.batch_indices(step)[self.rank :: self.processes]


class Trainer:
    """Runs a method to its end in `directory`, from its latest checkpoint if there is one.

    section: the config's `trainer`; seed: root of every random number of the loop.
    """

    def __init__(self, section, directory: RunDirectory, accelerator, seed: int):
        self.section, self.directory, self.accelerator, self.seed = section, directory, accelerator, seed
        self.checkpoints = Checkpoints(directory.checkpoints)
        self.seconds = 0.0              # spent in the loop, earlier sittings included
        self.interval_losses: list = []

    def fit(self, method: Method, description: str = "") -> int:
        """Train; returns the number of steps the run has made in all. Raises RunError on a non-finite loss."""
        total = run_length(self.section, method.steps, method.steps_per_epoch)
        method.build(total)
        if method.described is not None and self.accelerator.is_main_process:
            self.directory.write_layers(method.described)
        start = self._resume(method)
        loader = DataLoader(
            method.dataset,
            batch_sampler=Batches(method, start, total, self.accelerator.process_index, self.accelerator.num_processes),
            collate_fn=method.collate, num_workers=self.workers(method), worker_init_fn=leave_process_group, pin_memory=self.accelerator.device.type == "cuda",
        )
        bar = tqdm(
            loaded(loader), desc=description, initial=start, total=total, unit="step", dynamic_ncols=True,
            disable=not self.accelerator.is_local_main_process or start == total,
        )
        finite = torch.ones((), dtype=torch.bool, device=self.accelerator.device)
        clock = time.perf_counter()
        with deferred():    # a signal waits for the end of a step, even one that comes while a batch is loaded
            for step, batch in enumerate(bar, start):
                seed_everything(self.seed, step, self.accelerator.process_index)
                method.before_step(step)
                values = method.gradients(to_device(batch, self.accelerator.device))
                method.after_backward()
                method.update()
                method.after_update()

                done = step + 1
                finite &= torch.isfinite(values["loss"])
                self.interval_losses.append(values["loss"])
                is_last, stopping = done == total, self._stopping(done)
                if is_last or done % self.section.log_every == 0:
                    self._require_finite(finite, done)
                    self._log(method, done, values, bar)
                is_regular = is_last or done % self.section.checkpoint_every == 0
                if is_regular or stopping:
                    self._require_finite(finite, done)
                    self.seconds, clock = self.seconds + time.perf_counter() - clock, time.perf_counter()
                    self._save(method, done, log=is_regular)    # a run that never stopped has no line where this one stops
                if stopping:
                    if pending():
                        break       # leaving `deferred` raises the signal
                    raise Interrupted(signal.SIGTERM)   # another process got it
        bar.close()
        return total

    def workers(self, method: Method) -> int:
        """Processes that load data: what the config says, or else what the method's data ask for."""
        return method.workers if self.section.num_workers is None else self.section.num_workers

    def _resume(self, method: Method) -> int:
        latest = self.checkpoints.load_latest()
        if latest is None:
            return 0
        step, state, facts = latest
        method.load_state_dict(state["method"])
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.seconds = facts["seconds"]
        logger.info("resuming from step %d", step)
        return step

    def _log(self, method: Method, done: int, values: dict, bar: tqdm) -> None:
        row = {name: float(value) for name, value in values.items()} | method.logged()
        if self.accelerator.num_processes > 1:
            row["loss"] = float(self.accelerator.reduce(values["loss"].detach().clone(), "mean"))
        bar.set_postfix_str(f"loss {row['loss']:.4g}")
        if self.accelerator.is_main_process:
            self.directory.log_metrics(done, row)
        self.accelerator.log(row, step=done)

    def _save(self, method: Method, done: int, log: bool = True) -> None:
        losses, self.interval_losses = self.interval_losses, []
        validated = method.validate()
        score = validated.get("loss", float(torch.stack(losses).mean()) if losses else math.inf)
        state = {"method": method.state_dict()}
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        row = {f"validation_{name}": value for name, value in validated.items()} if log else {}
        if row:
            self.accelerator.log(row, step=done)
        if self.accelerator.is_main_process:
            if row:
                self.directory.log_metrics(done, row)
            self.checkpoints.save(done, state, score=score, facts={"seconds": self.seconds})
        self.accelerator.wait_for_everyone()

    def _stopping(self, done: int) -> bool:
        """Whether a signal asks to stop. Processes must agree on the step, so several ask only when they log."""
        if self.accelerator.num_processes == 1:
            return pending()
        if done % self.section.log_every:
            return False
        asked = torch.tensor(float(pending()), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum") > 0)

    def _require_finite(self, finite: torch.Tensor, done: int) -> None:
        if not finite:
            kept = self.checkpoints.load_latest()
            last = f"the last good checkpoint is at step {kept[0]}" if kept else "there is no checkpoint yet"
            raise RunError(f"the loss became NaN or infinite by step {done}; {last}; lower the learning rate and start again")


def leave_process_group(worker: int) -> None:
    """Ctrl-C reaches a whole process group; a loading process that it stopped would take the run's last checkpoint with it."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
