"""Shared by the scripts that reproduce tables: sweeps of ordinary quantlab runs, several at a time, and their table."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quantlab.report.runs import find_runs, read_run
from quantlab.report.table import Row, aggregate, baseline_rows, comparison_rows, to_csv, to_markdown


def add_options(parser: argparse.ArgumentParser, runs: Path) -> None:
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", default="", metavar="NAME", help="only sweeps with this prefix; the table has all runs"
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="sweeps at a time")
    parser.add_argument("--runs", type=Path, default=runs, help="where to put the runs; completed ones are skipped")
    parser.add_argument("--output", type=Path, default=Path("results"), help="where the table goes")


def sweep_all(jobs: dict[str, list[str]], folder: Path, options: argparse.Namespace) -> int:
    """Run every job (name: command-line overrides) over the seeds, each in its own process; returns 1 if any failed.

    The first runs alone: it trains and caches the full-precision model for all others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # as many threads per process as cores per worker: small tensors gain nothing from more
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // options.workers))}

    seeds = range(options.first_seed, options.first_seed + options.seeds)

    def sweep(name: str) -> int:
        words = [*jobs[name], f"seed={','.join(map(str, seeds))}", f"output_dir={folder / name}"]
        if options.data_dir:
            words.append(f"data_dir={options.data_dir}")
        print(f"{folder / name} ...", file=sys.stderr, flush=True)
        with open(folder / f"{name}.log", "w") as log:
            return subprocess.run(
                [sys.executable, "-m", "quantlab.cli", "-m", *words],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode

    first, *others = [name for name in jobs if name.startswith(options.only)]
    codes = [sweep(first)]
    with ThreadPoolExecutor(options.workers) as pool:
        codes += pool.map(sweep, others)
    return int(any(codes))


def without_places(words: list[str]) -> list[str]:
    """A command's words without machine-specific paths of data, runs and tables."""
    kept = list(words)
    for option, instead in (("--data-dir", ["--data-dir", "DIR"]), ("--runs", []), ("--output", [])):
        if option in kept:
            place = kept.index(option)
            kept[place : place + 2] = instead
    return kept


def write_table(
    folder: Path,
    name: str,
    title: str,
    spread_over: str,
    options: argparse.Namespace,
    baseline: str | None = None,
    left_out: Container[str] = (),
) -> tuple[str, list[Row]]:
    """Write OUTPUT/name.{md,csv} from all runs under `folder`; returns the Markdown and the rows of single runs.

    baseline: key of a baseline in results.json that all runs share, for the first row; left_out: metrics only in the
    CSV.
    """
    runs = find_runs([folder])
    read = [read_run(run) for run in runs]
    rows = comparison_rows(read)
    options.output.mkdir(parents=True, exist_ok=True)
    single = [*rows, *baseline_rows(read, rows)]
    below = [row | {"directory": os.path.relpath(row["directory"], folder)} for row in single]
    to_csv(below, options.output / f"{name}.csv")
    commits = {
        json.loads((run / "results.json").read_text())["provenance"]["commit"] or "unknown"
        for run in map(Path, runs)
        if (run / "results.json").is_file()
    }
    means = aggregate(single)
    if baseline is not None:
        means = shared_baseline(baseline, read, rows) + means
    means = [{column: value for column, value in row.items() if column not in left_out} for row in means]
    command = " ".join(["python", *sys.argv[:1], *without_places(sys.argv[1:])])
    text = (
        f"# {title}\n\nMade by `{command}` with runs at commit {', '.join(sorted(one[:12] for one in commits))}, "
        f"{platform.machine()}, {os.cpu_count()} cores. Mean ± standard deviation over seeds of {spread_over}. "
        f"Single runs: {name}.csv.\n\n{to_markdown(means)}\n"
    )
    (options.output / f"{name}.md").write_text(text)
    return text, rows


def shared_baseline(name: str, read: list[dict], rows: list[Row]) -> list[Row]:
    """The row of a baseline that all runs share, from the first run that has it."""
    for run, row in zip(read, rows):
        if run["results"] is not None:
            same = {column: row[column] for column in ("task", "model", "bits", "protocol")}
            return [{"method": name.replace("_", " "), "settings": {}} | same | run["results"]["baseline"][name]]
    return []
