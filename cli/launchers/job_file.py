"""A job of a sweep as a file, SWEEP/.jobs/NAME.json, that any process which sees the same folders can carry out:
`python -m quantlab.cli.launchers.job_file FILE`. JSON, with the validated config; nothing is unpickled.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from quantlab.cli.request import Job
from quantlab.run.atomic_files import atomic_write

FOLDER = ".jobs"


def job_file(job: Job) -> Path:
    return job.directory.parent / FOLDER / f"{job.directory.name}.json"


def log_file(job: Job) -> Path:
    """What the process of a job prints, beside what its run.log has: its progress bars, and why it could not begin."""
    return job_file(job).with_suffix(".log")


def write_job(job: Job, number: int, of: int, source: Sequence[str]) -> Path:
    from quantlab.config import to_plain

    said = {
        "number": number,
        "of": of,
        "config": to_plain(job.config),
        "directory": str(job.directory),
        "typed": job.typed,
        "swept": job.swept,
        "source": list(source),
        "folder": os.getcwd(),
        "trial": job.trial and asdict(job.trial),
    }
    file = job_file(job)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps(said, indent=1, ensure_ascii=False))
    return file


def carry_out(file: str) -> int:
    """Run the job of the file, or go on with it; its exit code."""
    from quantlab.cli.main import answered

    return answered(lambda: _run(Path(file)))


def _run(file: Path) -> int:
    from hydra.conf import HydraConf
    from omegaconf import OmegaConf

    from quantlab.cli.hydra_nodes import foreign_nodes
    from quantlab.cli.jobs import job_in_process
    from quantlab.config import validate
    from quantlab.errors import RequestError
    from quantlab.run.trial import Trial

    said = json.loads(file.read_text(encoding="utf-8"))
    os.chdir(said["folder"])
    stored = OmegaConf.load(Path(said["directory"]).parent / "multirun.yaml")
    typed = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(typed, False)
    hydra = OmegaConf.merge({"hydra": typed}, stored)
    if problems := list(foreign_nodes(hydra)):
        raise RequestError(*problems)
    trial = Trial(**said["trial"]) if said.get("trial") else None
    job = Job(validate(said["config"]), Path(said["directory"]), tuple(said["typed"]), tuple(said["swept"]), trial)
    return job_in_process(job, said["number"], said["of"], said["source"], hydra)


if __name__ == "__main__":
    from quantlab.cli.launchers.attended import end_with_stdin

    end_with_stdin()
    sys.exit(carry_out(sys.argv[1]))
