"""A job's process as the child of one that a cluster started: what the cluster does to that one reaches the job as
SIGTERM, so that its run saves a checkpoint, and the job ends with it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from quantlab.run.signals import signal_that_came

ATTENDED = "QUANTLAB_ATTENDED"  # in the environment of a job that ends when its stdin does


class AttendedJob:
    """`AttendedJob(file, log)()` carries out a job file; the exit code of its process."""

    def __init__(self, file: str, log: str, threads: int | None = None):
        self.file, self.log, self.threads = file, log, threads
        self.process: subprocess.Popen | None = None

    def __call__(self) -> int:
        environment = {**os.environ, ATTENDED: "1"}
        if self.threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "quantlab.cli.launchers.job_file", self.file],
                stdin=subprocess.PIPE,  # ends with this process
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # signals of the cluster come to this process
            )
            try:
                return self.process.wait()
            finally:
                self.stop()

    def stop(self) -> None:
        """End the job, if it still runs, and wait until it has saved its state."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            self.process.wait()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "process": None}


def end_with_stdin() -> None:
    """In the job: where whoever attends it is gone, however that ended, save a checkpoint and end."""
    if os.environ.pop(ATTENDED, None):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # SLURM's, for whoever attends it
        threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    with contextlib.suppress(OSError):
        os.read(0, 1)
    if signal_that_came() is None:
        os.kill(os.getpid(), signal.SIGTERM)
