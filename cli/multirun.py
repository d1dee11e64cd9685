"""The end of a sweep: a table of every job, read from the directories that the jobs left behind."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from quantlab.cli.outcome import Outcome
from quantlab.cli.request import Request
from quantlab.run_directory import RunDirectory

MAIN_METRICS = ("fid_to_fp32", "mse_to_fp32", "top1", "loss")


def finish(request: Request, outcomes: list[Outcome]) -> int:
    """Print the table on stdout; the sweep's exit code: 0, 1 where any job failed, 130 or 143 where interrupted."""
    print(summary(request, outcomes))
    last = outcomes[-1]
    if last.interrupted:
        print(f"quantlab: resume with: quantlab {shlex.join(request.again)}", file=sys.stderr)
        return last.exit_code
    return int(any(outcome.exit_code for outcome in outcomes))


def summary(request: Request, outcomes: list[Outcome]) -> str:
    """One line per job: what was swept, state, main metric, directory."""
    rows = [("job", "state", "metric", "directory")]
    for number, words in enumerate(request.swept):
        outcome = outcomes[number] if number < len(outcomes) else None
        state = _state(outcome)
        metric = _main_metric(outcome.directory) if state == "completed" else "-"
        rows.append((" ".join(words) or "-", state, metric, str(outcome.directory if outcome else "-")))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[3]]) for row in rows)


def _state(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not started"
    if outcome.exit_code:
        return "interrupted" if outcome.interrupted else "failed"
    return RunDirectory(outcome.directory).state() or "completed"


def _main_metric(directory: Path) -> str:
    """`fid_to_fp32=1.9`, or "-" where there is no result."""
    metrics = _metrics(directory / "results.json")
    for name in (*MAIN_METRICS, *metrics):
        if isinstance(metrics.get(name), (int, float)):
            return f"{name}={metrics[name]:.4g}"
    return "-"


def _metrics(results: Path) -> dict[str, Any]:
    try:
        return json.loads(results.read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError):
        return {}
