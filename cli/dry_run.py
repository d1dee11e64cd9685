"""--dry-run: the jobs of a sweep, and what each would cost by what similar runs in the same folders cost."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from quantlab.cli.jobs import removing_empty
from quantlab.cli.request import Job, Request
from quantlab.config import to_plain
from quantlab.config.catalog import groups
from quantlab.errors import QuantlabError, RequestError
from quantlab.run.binding import PLACES
from quantlab.run.directory import RunDirectory
from quantlab.run.log import print_if_read


class Ran(NamedTuple):
    """A completed run: what its config says, by dotted key, and what it cost."""

    leaves: Mapping[str, Any]
    seconds: float


class Cost(NamedTuple):
    """seconds: None where nothing similar ran."""

    seconds: float | None
    why: str


def dry_run(request: Request) -> int:
    """Print the jobs; 0."""
    with removing_empty(request.new):
        if not request.multirun:
            raise RequestError("--dry-run: is of sweeps; type quantlab -m, or for one run --cfg job, which shows it")
        if request.search is not None:
            raise RequestError("--dry-run: a search chooses its jobs as it goes; drop hydra/sweeper=optuna")
        print_if_read(_page(request, finished_runs(request.directory)))
    return 0


def finished_runs(directory: Path) -> list[Ran]:
    """Those of the sweep in `directory`, and those beside it and in sweeps beside it."""
    files = {*directory.glob("*/results.json"), *directory.parent.glob("*/results.json")}
    return [ran for file in sorted(files | {*directory.parent.glob("*/*/results.json")}) if (ran := _read(file.parent))]


def cost_of(job: Job, ran: Iterable[Ran], varied: Iterable[str]) -> Cost:
    """By runs that differ from the job only in their seed, or else also in what the sweep varies. varied: its keys,
    without those that choose an option, by which anything may change.
    """
    own = leaves_of(to_plain(job.config))
    seeds, others = [], []
    for run in ran:
        differs = [key for key in {*own, *run.leaves} if own.get(key, ...) != run.leaves.get(key, ...)]
        if all(_is_seed(key) for key in differs):
            seeds.append(run.seconds)
        elif all(_is_seed(key) or key in varied for key in differs):
            others.append(run.seconds)
    found, what = (seeds, "but for the seed") if seeds else (others, "but for what is swept")
    if not found:
        return Cost(None, "nothing similar ran here")
    spread = f", {_time(min(found))} to {_time(max(found))}" if len(found) > 1 else ""
    return Cost(median(found), f"{len(found)} alike {what}{spread}")


def _page(request: Request, ran: list[Ran]) -> str:
    varied = {word.partition("=")[0].lstrip("+") for job in request.jobs for word in job.swept} - set(groups())
    rows, left = [("job", "state", "cost", "by")], []
    for job in request.jobs:
        run = RunDirectory(job.directory)
        if run.is_completed():
            rows.append((" ".join(job.swept) or "-", "completed", "-", "-"))
            continue
        cost = cost_of(job, ran, varied)
        left.append(cost.seconds)
        state = "to run"
        if run.holds_a_run():
            state = "running" if run.lock.is_held() else "goes on"
        shown = "unknown" if cost.seconds is None else _time(cost.seconds)
        rows.append((" ".join(job.swept) or "-", state, shown, cost.why))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[3]]) for row in rows]
    return "\n".join([*lines, _total(request, left)])


def _total(request: Request, left: list[float | None]) -> str:
    known = [seconds for seconds in left if seconds is not None]
    total = f"{len(request.jobs)} jobs, {len(request.jobs) - len(left)} completed, {len(left)} to run"
    if known:
        total += f": {_time(sum(known))} one after the other"
        workers = request.hydra.hydra.launcher.get("workers")
        if workers is not None and workers > 1:
            longest = max(max(known), sum(known) / min(workers, len(left)))
            total += f", at least {_time(longest)} by {workers} workers"
    unknown = len(left) - len(known)
    return total + (f"; {unknown} of unknown cost" if unknown else "") + f"; in {request.directory}"


def _read(directory: Path) -> Ran | None:
    run = RunDirectory(directory)
    try:
        seconds = run.read_results()["cost"]["seconds"] if run.is_completed() else None
        return Ran(leaves_of(run.read_config()), float(seconds)) if isinstance(seconds, (int, float)) else None
    except (QuantlabError, OSError, KeyError, TypeError):
        return None  # of another version, or damaged: it says nothing


def leaves_of(config: Any, key: str = "") -> dict[str, Any]:
    """The values of a plain config by dotted key, without those that say where it runs."""
    if not isinstance(config, Mapping):
        return {key: config}
    found: dict[str, Any] = {}
    for name, inner in config.items():
        if name not in PLACES:
            found |= leaves_of(inner, f"{key}.{name}" if key else str(name))
    return found


def _is_seed(key: str) -> bool:
    return key.rpartition(".")[2] == "seed"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min" if minutes else f"{seconds:.1f} s"
    )
