"""hydra/launcher=ray: the jobs of a sweep on Ray, of this machine or of a cluster that is there."""

import contextlib
import socket
from collections.abc import Sequence
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from quantlab.cli.launchers.attended import AttendedJob
from quantlab.cli.launchers.job_file import log_file, write_job
from quantlab.cli.launchers.own_launcher import Numbered, OwnLauncher
from quantlab.cli.launchers.pool import usable_cores
from quantlab.errors import RequestError
from quantlab.run.log import say

ANSWERS = 10.0  # seconds in which a cluster does
OBJECTS = 100 * 2**20  # bytes of a node of our own, for objects: paths and exit codes; Ray takes 30 % of the memory
ENDING = 120.0  # seconds that stopped jobs get to save their state


class Ray(OwnLauncher):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises RequestError where no cluster answers: before anything is written."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self._connect()

    def run(self, left: Sequence[Numbered]) -> None:
        import ray

        carry_out = _task(self.options)
        waiting, running = list(left), {}
        at_once = min(self.options.workers or len(left), len(left))
        try:
            while waiting or running:
                begun, waiting = waiting[: at_once - len(running)], waiting[at_once - len(running) :]
                for one in begun:
                    file = write_job(one.job, one.number, self.of, self.request.source)
                    running[carry_out.remote(str(file), str(log_file(one.job)))] = one
                done, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                for reference in done:
                    self.ended(running.pop(reference), _exit_code(reference))
                self.bar.redraw()
        except BaseException:
            _cancel(list(running))
            raise
        finally:
            ray.shutdown()

    def _connect(self) -> None:
        import ray

        address = self.options.address
        own = {}
        if address is None:
            cores = max(usable_cores(), int(self.options.cpus + 0.999) * (self.options.workers or 1))
            own = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": OBJECTS}
        try:
            if address is not None and ":" in address:
                # Ray itself would try for many minutes
                host, _, port = address.rpartition("/")[2].rpartition(":")
                socket.create_connection((host, int(port)), timeout=ANSWERS).close()
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
        except Exception as error:
            said = " ".join(str(error).split())[:160]
            raise RequestError(
                f"hydra.launcher.address: no Ray cluster at {address} ({said}); start one by ray start --head, or "
                "type hydra.launcher.address=null for one of this machine"
            ) from None


def _task(options: Any) -> Any:
    """A function of Ray's that carries out a job file in a process of its own."""
    import ray

    memory = {} if options.memory_gb is None else {"memory": int(options.memory_gb * 2**30)}
    threads = max(1, int(options.cpus))

    @ray.remote(
        max_retries=0, num_cpus=options.cpus, num_gpus=options.gpus, resources=options.resources or None, **memory
    )
    def carry_out(file: str, log: str) -> int:
        return AttendedJob(file, log, threads)()

    return carry_out


def _exit_code(reference: Any) -> int:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError:  # its worker or its node died; the run's directory says how far it came
        return 1


def _cancel(references: list[Any]) -> None:
    import ray

    if not references:
        return
    say(f"quantlab: cancelling {len(references)} jobs, which save a checkpoint first")
    for reference in references:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.cancel(reference, force=False)
    ray.wait(references, num_returns=len(references), timeout=ENDING)
