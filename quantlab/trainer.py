"""The one loop of quantlab: steps, logging, checkpoints, resume, signals. What happens inside a step is the method's.

Every step seeds its own random numbers from (seed, step, process), and which data it sees depends only on the step. So
a run that is killed and resumed repeats the same bits as one that never stopped, and a checkpoint holds no generator
states.
"""

import contextlib
import logging
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from quantlab.errors import Interrupted, LoadingError, Pruned, RequestError, RunError
from quantlab.methods.base import Method, run_length
from quantlab.progress import Steps, Stopwatch
from quantlab.run import formats
from quantlab.run.checkpoints import Checkpoints
from quantlab.run.directory import RunDirectory
from quantlab.run.signals import as_interrupted, deferred, pending
from quantlab.run.state import first_not_finite
from quantlab.run.trial import trial_in
from quantlab.seeding import seed_everything
from quantlab.step_batches import StepBatches
from quantlab.tasks.base import to_device

logger = logging.getLogger("quantlab")


class Trainer:
    """Runs a method to its end in `directory`, from its latest checkpoint if there is one.

    section: the config's `trainer`; seed: root of every random number of the loop; watch: of the run's time, which
    begins now unless given.
    """

    def __init__(self, section, directory: RunDirectory, accelerator, seed: int, watch: Stopwatch | None = None):
        self.section, self.directory, self.accelerator, self.seed = section, directory, accelerator, seed
        self.checkpoints = Checkpoints.of(directory)
        self.watch = Stopwatch() if watch is None else watch
        self.interval_losses: list = []
        # the step of the first loss that is not finite; 0: there is none
        self.bad_since = torch.zeros((), dtype=torch.int64, device=accelerator.device)
        self.validated = True  # whether the checkpoint that this sitting goes on from was
        self.trial = trial_in(directory.path) if accelerator.num_processes == 1 else None  # of a search

    def fit(self, method: Method, description: str = "") -> int:
        """Train; returns the number of steps the run has made in all. Raises RunError when it diverges: a loss, the
        weights after the last update, or what is measured at a checkpoint is NaN or infinite; such a state is not
        saved.
        """
        total = run_length(self.section, method.steps, method.steps_per_epoch)
        method.build(total)
        if method.described is not None and self.accelerator.is_main_process:
            self.directory.write_layers(method.described)
        self.done = self.saved = start = self._resume(method)
        batches = StepBatches(method, start, total, self.accelerator, self.workers(method))
        hidden = not self.accelerator.is_local_main_process or start == total
        bar = Steps(self._loaded(batches, method), description, start, total, method.cost, disable=hidden)
        # A signal waits for the end of a step, even one that comes while a batch is loaded.
        with deferred(), batches.no_death_inside_a_step():
            if not self.validated and self._is_regular(start, total):
                self._validate_and_save(method, start, total)
            for step, batch in enumerate(bar, start):
                values = self._step(method, step, batch)
                if self._ends_with(method, step + 1, total, values, bar):
                    break  # leaving `deferred` raises the signal
        bar.close()
        return total

    def _step(self, method: Method, step: int, batch: Any) -> dict[str, Tensor]:
        seed_everything(self.seed, step, self.accelerator.process_index)
        method.before_step(step)
        values = method.gradients(to_device(batch, self.accelerator.device))
        method.after_backward()
        try:
            method.update()
        except (OverflowError, RuntimeError) as error:
            if "overflow" not in str(error):
                raise
            raise self._diverged(method, f"the update of step {step + 1} overflows") from error
        method.after_update()
        return values

    def _ends_with(self, method: Method, done: int, total: int, values: dict[str, Tensor], bar: Steps) -> bool:
        """What follows a step: log, checkpoint, and whether the loop ends here because of a signal."""
        self.done = done
        is_first = (self.bad_since == 0) & ~torch.isfinite(values["loss"].detach())
        self.bad_since = torch.where(is_first, done, self.bad_since)
        self.interval_losses.append(values["loss"])
        stopping = self._stopping(done)
        if done == total or done % self.section.log_every == 0:
            self._require_finite_loss(method)
            self._log(method, done, values, bar)
        if self._is_regular(done, total):
            self._validate_and_save(method, done, total)
        elif stopping:
            self._require_finite_loss(method)
            self._require_finite_state(method, done)
            self._save(method, done)
        if stopping and not pending():
            raise Interrupted(signal.SIGTERM)  # another process got it
        return stopping

    def _is_regular(self, done: int, total: int) -> bool:
        """Whether every run of this config has a checkpoint at this step."""
        return done == total or done % self.section.checkpoint_every == 0

    def workers(self, method: Method) -> int:
        """Processes that load data: what the config says, or else what the method's data ask for."""
        return method.workers if self.section.num_workers is None else self.section.num_workers

    def _resume(self, method: Method) -> int:
        latest = self.checkpoints.load_latest()
        if latest is None:
            return 0
        step, state, facts = latest
        number = facts.get(formats.KEY, 1)
        method.load_state_dict(formats.migrated_state(state["method"], number, step, method.section, self.section))
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.interval_losses = list(state.get("interval_losses", torch.empty(0)).to(self.accelerator.device))
        self.watch.earlier, self.validated = facts["seconds"], facts.get("validated", True)
        logger.info("resuming from step %d", step)
        if number < formats.FORMAT:
            logger.warning(
                "it is of a run that an earlier version began: the steps that are left are this version's, and"
                " CHANGELOG.md says what it does otherwise"
            )
        return step

    def _loaded(self, batches: StepBatches, method: Method) -> Iterator:
        with self._saved_if_data_fails(method):
            yield from batches

    @contextmanager
    def _saved_if_data_fails(self, method: Method) -> Iterator[None]:
        """Around reading data between two steps: on failure the last complete step is saved before the error is raised.

        Raises: LoadingError for what a person can mend: a loading process that died, a file that cannot be read.
        """
        try:
            yield
        except Exception as error:
            if self.accelerator.is_main_process and self.done > self.saved:
                with contextlib.suppress(RunError):  # a state that is not sound is not saved
                    self._require_finite_loss(method)
                    self._require_finite_state(method, self.done)
                    self._save(method, self.done, together=False)  # this process alone has failed
            if pending():  # a signal to all processes of the run stops those that load its data too
                raise as_interrupted(error) from None
            line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            # The second is of its pipe, where that is noticed before torch is told of the death.
            if line.startswith("DataLoader worker") or isinstance(error, ConnectionError):
                raise LoadingError(
                    f"a process that loads data has died, often for want of memory ({line.rstrip('.')})",
                    "trainer.num_workers=0",
                ) from error
            if isinstance(error, (RequestError, OSError)):
                raise LoadingError(f"loading data failed: {line}") from error
            raise

    def _log(self, method: Method, done: int, values: dict, bar: Steps) -> None:
        row = {name: float(value) for name, value in values.items()} | method.logged()
        if self.accelerator.num_processes > 1:
            row["loss"] = float(self.accelerator.reduce(values["loss"].detach().clone(), "mean"))
        bar.set_postfix_str(f"loss {row['loss']:.4g}")
        if self.accelerator.is_main_process:
            self.directory.metrics.append(done, row)
        self.accelerator.log(row, step=done)

    def _validate_and_save(self, method: Method, done: int, total: int) -> None:
        """A checkpoint that every run of this config has, with what the method says of it. Raises Pruned, once it is
        saved, where a search has no use for the rest.
        """
        self._require_finite_loss(method)
        self._require_finite_state(method, done)  # before it is measured: not everything measures NaN
        with self._saved_if_data_fails(method):
            validated = method.validate()
        if bad := [name for name, value in validated.items() if not math.isfinite(value)]:
            raise self._diverged(method, f"{', '.join(bad)} of the validation is NaN or infinite after step {done}")
        losses, self.interval_losses = self.interval_losses, []
        score = method.checkpoint_score(validated) or [float(torch.stack(losses).mean()) if losses else math.inf]
        row = {f"validation_{name}": value for name, value in validated.items()}
        if row:
            self.accelerator.log(row, step=done)
            if self.accelerator.is_main_process:
                self.directory.metrics.append(done, row)
        self._save(method, done, score)
        why = self._why_pruned(done, validated) if self.trial is not None else None
        if why is not None and done < total:  # what is done is evaluated
            raise Pruned(why)

    def _why_pruned(self, done: int, validated: dict[str, float]) -> str | None:
        try:
            return self.trial.why_pruned(done, validated)
        except Exception as error:  # a search's trouble is no reason to lose a run
            logger.warning("this trial is not pruned: %s", " ".join(str(error).split()) or type(error).__name__)
            self.trial = None
            return None

    def _save(self, method: Method, done: int, score: list[float] | None = None, together: bool = True) -> None:
        """Write a checkpoint. Without a score it only serves to go on from: a run that never stopped has none at this
        step, so it is not validated, writes no line, and is never the best. together: whether all processes are here.
        """
        state = {"method": method.state_dict()}
        if self.interval_losses:
            state["interval_losses"] = torch.stack(self.interval_losses)
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            self.checkpoints.save(
                done,
                state,
                score=score,
                facts={"seconds": self.watch.seconds, "validated": score is not None, formats.KEY: formats.FORMAT},
            )
        self.saved = done
        if together:
            self.accelerator.wait_for_everyone()

    def _stopping(self, done: int) -> bool:
        """Whether a signal asks to stop. Processes must agree on the step, so several ask only when they log."""
        if self.accelerator.num_processes == 1:
            return pending()
        if done % self.section.log_every:
            return False
        asked = torch.tensor(float(pending()), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum") > 0)

    def _require_finite_loss(self, method: Method) -> None:
        if since := int(self.bad_since):
            raise self._diverged(method, f"the loss is NaN or infinite since step {since}")

    def _require_finite_state(self, method: Method, done: int) -> None:
        """The loss of a step is of the weights before its update, so that the last one shows here."""
        state = {key: value for key, value in method.state_dict().items() if not key.startswith("optimizer")}
        if name := first_not_finite(state):
            raise self._diverged(method, f"the weights are NaN or infinite after step {done} ({name})")

    def _diverged(self, method: Method, what: str) -> RunError:
        kept = self.checkpoints.load_latest()
        last = f"the last good checkpoint is at step {kept[0]}" if kept else "there is no checkpoint yet"
        return RunError(f"{what}; {last}; lower {method.rate_key} and start again")
