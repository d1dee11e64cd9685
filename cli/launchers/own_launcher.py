"""What our launchers share: which jobs are left to do, and what is said as each ends."""

import signal
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from quantlab.cli.launchers.job_file import log_file
from quantlab.cli.request import Job
from quantlab.config.launchers import NODES
from quantlab.progress import Bar
from quantlab.run.directory import RunDirectory
from quantlab.run.log import say


class Numbered(NamedTuple):
    """A job of a sweep that is to be done, its number from 0."""

    number: int
    job: Job


class OwnLauncher(Launcher):
    """Jobs in processes that this one does not depend on. What a job returns is what its directory holds."""

    def __init__(self, **node: Any):
        name = type(self)
        target = f"{name.__module__}.{name.__name__}"
        self.options: Any = NODES[target].model_validate({**node, "_target_": target})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.request = hydra_context.config_loader.request
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Every job that is not complete. Raises Interrupted."""
        jobs = [self.request.job(tuple(words)) for words in job_overrides]
        numbered = [Numbered(initial_job_idx + index, job) for index, job in enumerate(jobs)]
        left = [one for one in numbered if not RunDirectory(one.job.directory).is_completed()]
        self.of = max(len(self.request.jobs), initial_job_idx + len(jobs))
        self.failed = 0
        with Bar(range(len(jobs)), "jobs", unit="job", initial=len(jobs) - len(left)) as self.bar:
            if left:
                self.run(left)
        return [JobReturn(overrides=list(words), status=JobStatus.COMPLETED) for words in job_overrides]

    def run(self, left: Sequence[Numbered]) -> None:
        """Carry out these jobs, and tell `ended` of each."""
        raise NotImplementedError  # every launcher's own

    def ended(self, one: Numbered, exit_code: int) -> None:
        """exit_code: of the job's process; negative where a signal killed it."""
        how = _how_it_ended(one.job, exit_code)
        self.failed += not how.startswith(("completed", "pruned"))
        if self.failed:
            self.bar.set_postfix_str(f"{self.failed} not completed", refresh=False)
        say(f"quantlab: job {one.number + 1} of {self.of}: {' '.join(one.job.swept)}: {how}")
        self.bar.update()


def _how_it_ended(job: Job, exit_code: int) -> str:
    run = RunDirectory(job.directory)
    if run.is_completed():
        return "completed"
    if run.state() == "running" and not run.lock.is_held():
        # Nobody else will say it.
        name = signal.Signals(-exit_code).name if exit_code < 0 else ""
        run.write_status("failed", f"its process died ({name or f'exit code {exit_code}'})", abs(exit_code) or 1)
    error = run.read_status().get("error")
    if run.state() == "pruned":
        return error or "pruned"
    if error:
        return f"{run.state()}: {error} ({run.log.path if run.log.path.is_file() else log_file(job)})"
    return f"failed: {_last_line(job) or f'exit code {exit_code}'} ({log_file(job)})"


def _last_line(job: Job) -> str:
    try:
        lines = log_file(job).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].removeprefix("quantlab: ").removeprefix("error: ") if lines else ""
