"""The end of a sweep: a table of every job, read from the directories that the jobs left behind."""

import shlex
import sys
from pathlib import Path
from typing import Any

from quantlab.cli.request import Job, Request
from quantlab.errors import CorruptFileError
from quantlab.run.directory import RunDirectory
from quantlab.run.log import print_if_read


def finish(request: Request, interrupted: int | None) -> int:
    """Print the table on stdout; the sweep's exit code: 0, 1 where any job failed, or that of the signal which
    interrupted it. A job that its search pruned has not failed.
    """
    states = [_state(job.directory, interrupted) for job in request.jobs]
    print_if_read(summary(request, states))
    if interrupted is not None:
        print(f"quantlab: resume with: quantlab {shlex.join(request.again)}", file=sys.stderr)
        return interrupted
    return int(any(state not in ("completed", "pruned") for state in states))


def summary(request: Request, states: list[str]) -> str:
    """One line per job: what was swept, state, main metric, directory."""
    rows = [("job", "state", "metric", "directory")]
    for job, state in zip(request.jobs, states, strict=True):
        metric = _shown(main_metric(job)) if state == "completed" else "-"
        rows.append((" ".join(job.swept) or "-", state, metric, str(job.directory) if state != "not started" else "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[3]]) for row in rows)


def _state(directory: Path, interrupted: int | None) -> str:
    """What the job in `directory` left, once all have ended. One that left nothing failed before it had begun, or
    never began.
    """
    run = RunDirectory(directory)
    state = run.state()
    if state == "completed" and not run.is_completed():
        return "failed"  # its results are gone
    if state is None:
        return "failed" if interrupted is None else "not started"
    if state == "running":
        return "running" if run.lock.is_held() else "failed"  # in another process, or its process died
    return state


def _shown(metric: tuple[str, float] | None) -> str:
    """`fid_to_fp32=1.9`, or "-"."""
    return "-" if metric is None else f"{metric[0]}={metric[1]:.4g}"


def main_metric(job: Job) -> tuple[str, float] | None:
    """Of what the method and the task call their main metrics, and then of all, the first that is there, and its value;
    None where there is no result.
    """
    metrics, config = metrics_of(job.directory), job.config
    for name in (*config.method.main_metrics, *config.task.main_metrics, "loss", *metrics):
        if isinstance(metrics.get(name), (int, float)):
            return name, metrics[name]
    return None


def metrics_of(directory: Path) -> dict[str, Any]:
    try:
        return (RunDirectory(directory).read_results() or {"metrics": {}})["metrics"]
    except CorruptFileError:
        return {}
