"""quantlab-report: one table and the plots over any number of runs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantlab.cli.outcome import ends_with_its_reader
from quantlab.errors import CorruptFileError, QuantlabError, RequestError
from quantlab.report.runs import find_runs, read_run, short_path
from quantlab.report.table import (
    Row,
    aggregate,
    baseline_rows,
    comparison_rows,
    metric_names,
    row_key,
    to_csv,
    to_markdown,
)
from quantlab.run.directory import RunDirectory

PROGRAM = "quantlab-report"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare runs. Returns the exit code: 0, 2 for a wrong request, 1 where the output cannot be written."""
    arguments = _parser().parse_args(argv)
    try:
        runs = _read(find_runs(arguments.directories))
        rows = comparison_rows(runs)
        text = _tables([*rows, *baseline_rows(runs, rows)], single=len(runs) == 1)
        with ends_with_its_reader():
            print(text, end="", flush=True)
        output = arguments.output or _common_parent(arguments.directories) / "report"
        _write(rows, runs, text, output)
    except QuantlabError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=(
            "Table (Markdown on stdout) and plots over any number of runs, averaged over seeds. Runs that "
            "differ in anything but the seed, or that were measured by another protocol, are never averaged together."
        ),
        epilog=f"example: {PROGRAM} outputs/2025-01-31",
    )
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="a run, or a folder that holds runs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for comparison.md, comparison.csv and plots "
                        "(default: report/ in the folder that holds all DIR)")  # fmt: skip
    return parser


def _read(directories: Sequence[Path]) -> list[dict[str, Any]]:
    runs = []
    for directory in directories:
        try:
            runs.append(read_run(directory))
        except CorruptFileError as error:
            _note(f"skipped: {error}")
    if not runs:
        what = "no readable run" if directories else "no run"
        raise RequestError(f"{what} found; give directories that `quantlab` wrote (they hold status.json)")
    for run in runs:
        if run["results"] is None:
            reason = f": {run['error']}" if run["error"] else ""
            _note(f"not completed: {short_path(run['directory'])}: {run['state']}{reason}")
    return runs


def _tables(rows: Sequence[Row], single: bool) -> str:
    """Means over seeds, and below them each run; a single run alone is its own table."""
    if single:
        return to_markdown(rows)
    finished = [row for row in rows if metric_names([row])]
    repeated = len(finished) - len({(row_key(row), row["seed"]) for row in finished})
    if repeated:
        _note(f"{repeated} of the runs repeat a configuration and seed; the means count the first of each only")
    means = f"## Mean ± sample standard deviation over seeds\n\n{to_markdown(aggregate(rows))}\n" if finished else ""
    return f"{means}## Runs\n\n{to_markdown(rows)}"


def _write(rows: Sequence[Row], runs: Sequence[dict[str, Any]], text: str, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    to_csv(rows, output / "comparison.csv")
    pictures = _plots(rows, runs, output)
    links = "".join(f"\n![{picture.stem}]({picture.name})\n" for picture in pictures)
    (output / "comparison.md").write_text(f"# Comparison of {len(rows)} runs\n\n{text}{links}", encoding="utf-8")
    _note(f"wrote comparison.md, comparison.csv and {len(pictures)} plots to {short_path(output)}")


def _plots(rows: Sequence[Row], runs: Sequence[dict[str, Any]], output: Path) -> list[Path]:
    """Overlaid curves along denoising and along training, one figure per set of runs that may stand together."""
    # Late: numpy and matplotlib, which the table does without.
    from quantlab.report import figures, overlay

    pictures = []
    denoising = overlay.denoising_overlays(_curves(rows, runs, RunDirectory.read_denoising))
    for name, series in denoising.items():
        pictures.append(figures.denoising_error(series, output / f"denoising_error_{name}.png"))
        if any("fid_to_fp32" in curve for curve in series["curves"].values()):
            pictures.append(figures.fid_along_denoising(series, output / f"fid_along_denoising_{name}.png"))
    for name, labelled in overlay.training_overlays(_curves(rows, runs, lambda run: run.metrics.read())).items():
        pictures.append(figures.compared_training_curves(labelled, output / f"training_curves_{name}.png"))
    return pictures


def _curves(rows: Sequence[Row], runs: Sequence[dict[str, Any]], read) -> list[tuple[Row, Any]]:
    """Rows of the completed runs for whose directory `read` yields something, with what it yields."""
    found = []
    for row, run in zip(rows, runs, strict=True):
        if run["results"] is None:
            continue
        try:
            content = read(RunDirectory(run["directory"]))
        except CorruptFileError as error:
            _note(f"left out of the plots: {error}")
            continue
        if content:
            found.append((row, content))
    return found


def _common_parent(directories: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([directory.resolve() for directory in directories]))


def _note(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr)


def _fail(text: str, exit_code: int) -> int:
    print(f"{PROGRAM}: error: {text}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
