"""quantlab-report: one table and the plots over any number of runs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantlab.cli.outcome import ends_with_its_reader
from quantlab.errors import CorruptFileError, QuantlabError, RequestError
from quantlab.report.baselines import baseline_rows
from quantlab.report.html_needs import require_html
from quantlab.report.runs import find_runs, read_run, short_path
from quantlab.report.selection import Names, filtered, parse_filter
from quantlab.report.table import Row, comparison_rows, repeated
from quantlab.report.whole_report import FORMATS, Chosen, Report
from quantlab.run.directory import RunDirectory

PROGRAM = "quantlab-report"
MOST_PLOTTED = 100  # runs, without being asked to: more take minutes, in plots that hardly tell them apart


def main(argv: Sequence[str] | None = None) -> int:
    """Compare runs. Returns the exit code: 0, 2 for a wrong request, 1 where the output cannot be written."""
    try:
        arguments = _parser().parse_args(argv)
        if arguments.html is not None:
            require_html(arguments.html)
        runs = _read(find_runs(arguments.directories))
        rows = comparison_rows(runs)
        names = Names([*rows, *baseline_rows(runs, rows)])
        if filters := [parse_filter(text, names) for text in arguments.filter]:
            runs = [runs[place] for place in filtered(rows, filters)]
            rows = comparison_rows(runs)
        chosen = Chosen(
            names.resolve_all("--columns", arguments.columns),
            names.resolve_all("--group-by", arguments.group_by),
            names.resolve_all("--sort", arguments.sort),
            arguments.reverse,
        )
        _note_repeated(rows, arguments.group_by)
        report = Report([*rows, *baseline_rows(runs, rows)], chosen)
        with ends_with_its_reader():
            print(report.text(arguments.format), end="", flush=True)
        if arguments.html is None or arguments.output is not None:
            output = arguments.output or _common_parent(arguments.directories) / "report"
            plots = len(runs) <= MOST_PLOTTED if arguments.plots is None else arguments.plots
            _write(report, rows, runs, output, plots)
        if arguments.html is not None:
            _write_html(report, rows, runs, arguments.html)
    except QuantlabError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(f"{message.removeprefix('argument ')}; type {PROGRAM} --help for all options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description=(
            "Tables and plots over any number of runs: a table for each task and protocol, averaged over seeds. Runs "
            "that differ in anything but the seed, or that were measured by another protocol, are never averaged "
            "together unless --group-by says so. KEY is a column, a metric or a key of the config, such as "
            "method.group_size, or its last part."
        ),
        epilog=f"example: {PROGRAM} outputs/2025-01-31 --filter method=accuquant,ptq/* --sort fid --html runs.html",
    )
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="a run, or a folder that holds runs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page to open in a browser, without a "
                        "network: the tables, curves, pictures, commands and configs of all runs")  # fmt: skip
    parser.add_argument("--filter", action="append", default=[], metavar="KEY=VALUE",
                        help="only these runs; VALUE[,VALUE...] with * and ?, or KEY!=VALUE, KEY<NUMBER, ...; may be "
                        "repeated")  # fmt: skip
    parser.add_argument("--columns", metavar="KEY,...", help="these columns, in this order (JSON has all)")
    parser.add_argument("--group-by", metavar="KEY,...", help="means over all runs that are equal in these")
    parser.add_argument("--sort", metavar="KEY,...", help="rows in this order: of a metric, the best first")
    parser.add_argument("--reverse", action="store_true", help="turn --sort round")
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="of what is printed (default: markdown)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for comparison.md, .csv, .json and .tex, and plots "
                        "(default: report/ in the folder that holds all DIR; with --html, nothing)")  # fmt: skip
    parser.add_argument(
        "--plots",
        action=argparse.BooleanOptionalAction,
        help=f"draw the plots (default: of up to {MOST_PLOTTED} runs; --html draws any number's curves)",
    )
    return parser


def _read(directories: Sequence[Path]) -> list[dict[str, Any]]:
    runs = []
    for directory in directories:
        try:
            runs.append(read_run(directory))
        except (CorruptFileError, OSError) as error:
            _note(f"skipped: {error}")
    if not runs:
        what = "no readable run" if directories else "no run"
        raise RequestError(f"{what} found; give directories that `quantlab` wrote (they hold status.json)")
    for run in runs:
        if run["results"] is None:
            reason = f": {run['error']}" if run["error"] else ""
            _note(f"not completed: {short_path(run['directory'])}: {run['state']}{reason}")
    return runs


def _note_repeated(rows: Sequence[Row], grouped: str | None) -> None:
    pairs = [] if grouped else repeated(rows)
    if pairs:
        row, other = pairs[0]
        more = f", and {len(pairs) - 1} more like it" if len(pairs) > 1 else ""
        again = f"{row['directory']} repeats {other['directory']} with the same seed {row['seed']}"
        _note(f"not in the means: {again}{more}")


def _write(report: Report, rows: Sequence[Row], runs: Sequence[dict[str, Any]], output: Path, plots: bool) -> None:
    output.mkdir(parents=True, exist_ok=True)
    pictures = _plots(rows, runs, output) if plots else []
    links = "".join(f"\n![{picture.stem}]({picture.name})\n" for picture in pictures)
    texts = {suffix: report.text(name) for name, suffix in FORMATS.items()}
    texts["md"] = f"# Comparison of {len(rows)} runs\n\n{texts['md']}{links}"
    for suffix, text in texts.items():
        (output / f"comparison.{suffix}").write_text(text, encoding="utf-8")
    drawn = f"{len(pictures)} plot{'s'[: len(pictures) != 1]}"
    _note(f"wrote comparison.{', .'.join(texts)} and {drawn} to {short_path(output)}")


def _write_html(report: Report, rows: Sequence[Row], runs: Sequence[dict[str, Any]], file: Path) -> None:
    from quantlab.report.html_page import write_html

    for line in write_html(report, rows, runs, file):
        _note(line)
    _note(f"wrote {short_path(file)} ({file.stat().st_size / 1e6:.1f} MB)")


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
        except (CorruptFileError, OSError) as error:  # damaged, or removed meanwhile
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
