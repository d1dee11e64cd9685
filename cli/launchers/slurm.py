"""hydra/launcher=slurm: the jobs of a sweep as an array of SLURM's, by submitit; or as submitit's local processes."""

import signal
import time
from collections.abc import Sequence
from typing import Any

from quantlab.cli.launchers.attended import AttendedJob
from quantlab.cli.launchers.job_file import FOLDER, log_file, write_job
from quantlab.cli.launchers.own_launcher import Numbered, OwnLauncher
from quantlab.run.directory import RunDirectory
from quantlab.run.log import say

ASK_EVERY = 2.0  # seconds; submitit itself asks SLURM once a minute
ENDING = 120.0  # seconds that stopped jobs get to save their state


class SlurmJob(AttendedJob):
    """submitit asks for `checkpoint` when the job's time is up or its place is wanted, and queues again what that
    returns; that a job is cancelled comes as SIGTERM, which submitit itself would pass over.
    """

    def __call__(self) -> int:
        signal.signal(signal.SIGTERM, lambda number, frame: self.process and self.process.terminate())
        return super().__call__()

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(SlurmJob(self.file, self.log, self.threads))


class Slurm(OwnLauncher):
    def run(self, left: Sequence[Numbered]) -> None:
        options = self.options
        executor = self._executor()
        waiting, running = list(left), []
        at_once = len(left) if options.cluster == "slurm" else min(options.workers or len(left), len(left))
        try:
            while waiting or running:
                begun, waiting = waiting[: at_once - len(running)], waiting[at_once - len(running) :]
                running += self._submitted(executor, begun) if begun else []
                for one, job in [pair for pair in running if pair[1].done()]:
                    running.remove((one, job))
                    self.ended(one, _exit_code(job))
                self.bar.redraw()
                time.sleep(ASK_EVERY if options.cluster == "slurm" else 0.1)
        except BaseException:
            _cancel(running)
            raise

    def _executor(self) -> Any:
        import submitit

        options = self.options
        folder = self.request.directory / FOLDER / "%j"
        own = {"slurm_max_num_timeout": options.requeues}
        if options.python is not None:
            own["slurm_python"] = options.python
        executor = submitit.AutoExecutor(folder, cluster=options.cluster, **own)
        executor.update_parameters(
            name="quantlab",
            timeout_min=options.minutes,
            cpus_per_task=options.cpus,
            gpus_per_node=options.gpus,
            slurm_array_parallelism=options.workers or 1_000,
            slurm_setup=options.setup or None,
            slurm_additional_parameters=options.options or {},
            **({} if options.memory_gb is None else {"mem_gb": options.memory_gb}),
            **{
                f"slurm_{name}": value
                for name in ("partition", "account", "qos")
                if (value := getattr(options, name)) is not None
            },
        )
        return executor

    def _submitted(self, executor: Any, begun: Sequence[Numbered]) -> list[tuple[Numbered, Any]]:
        jobs = []
        with executor.batch():
            for number, job in begun:
                file = write_job(job, number, self.of, self.request.source)
                jobs.append(executor.submit(SlurmJob(str(file), str(log_file(job)), self.options.cpus)))
        if self.options.cluster == "slurm":
            say(f"quantlab: {len(jobs)} jobs queued as {jobs[0].job_id.partition('_')[0]}; Ctrl-C cancels them")
        return list(zip(begun, jobs, strict=True))


def _exit_code(job: Any) -> int:
    try:
        return job.result()
    except Exception:  # of submitit: the cluster ended it, or it could not begin; its directory says how far it came
        return 1


def _cancel(running: Sequence[tuple[Numbered, Any]]) -> None:
    if running:
        say(f"quantlab: cancelling {len(running)} jobs, which save a checkpoint first")
    for _, job in running:
        job.cancel(check=False)
    until = time.monotonic() + ENDING
    while time.monotonic() < until and any(
        not job.done() or RunDirectory(one.job.directory).lock.is_held() for one, job in running
    ):
        time.sleep(0.1)
