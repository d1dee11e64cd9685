"""A table of the papers, or of quantlab's own studies, from one command: its runs, its numbers and its figure.

    python scripts/reproduce.py --list
    python scripts/reproduce.py accuquant_quality                                # the first profile: digits
    python scripts/reproduce.py accuquant_quality --profile mnist --data-dir DIR --workers 2
    python scripts/reproduce.py qat_cifar --rows resnet20_cifar10_sgdt --seeds 0 --data-dir DIR device=cuda
    python scripts/reproduce.py qat_optimizers --profile smoke                   # a few steps of everything
    python scripts/reproduce.py all --profile smoke --workers 2                  # of every table, in minutes

Tables are conf/table/*.yaml. Every run is an ordinary quantlab run, RUNS/TABLE/PROFILE/ROW_COLUMN/seed=N; completed
ones are skipped and those that were cut short go on, so the command can be interrupted and repeated. A cell whose run
fails, or whose data or weights are not there, is listed with the reason and stops nothing. OUTPUT/TABLE-PROFILE.md,
.csv and .json (and .png where columns are the points of a curve) hold what there is; --html adds a page for a browser
over its runs, with their curves, pictures, commands and configs.
"""

import argparse
import contextlib
import csv
import io
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from quantlab.cli.arguments import read_arguments
from quantlab.cli.folders import own_folders
from quantlab.cli.jobs import removing_empty
from quantlab.cli.launchers.pool import Call, places_of, run_all, usable_cores
from quantlab.cli.main import main as quantlab
from quantlab.cli.report import main as report
from quantlab.cli.request import check_request
from quantlab.errors import Interrupted, RequestError
from quantlab.progress import Bar
from quantlab.report.html_needs import require_html
from quantlab.report.measured_table import Measured, measure, to_json, to_markdown, to_rows
from quantlab.report.runs import find_runs
from quantlab.report.table_definition import Cell, TableDefinition, cells, load_definition, table_names
from quantlab.run.signals import interruptible

ALL_TABLES = "all"


def main() -> int:
    try:
        with interruptible():
            return reproduce(parse(sys.argv[1:]))
    except Interrupted as error:
        print("reproduce: interrupted; the same command goes on", file=sys.stderr)
        return error.exit_code
    except RequestError as error:
        print(f"reproduce: error: {error}", file=sys.stderr)
        return 2


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(f"{message.removeprefix('argument ')}; type reproduce.py --help for all options")


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", help="see --list; all: every table that has the profile")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="of quantlab, for every run")
    parser.add_argument("--list", action="store_true", help="the tables, their profiles, and what they need")
    parser.add_argument("--profile", help="the size and data of the runs; the table's first if not given")
    parser.add_argument("--seeds", type=numbers, help="such as 0,1,2; the table's own if not given")
    parser.add_argument("--rows", type=names, default=[], help="only these, such as step,accuquant")
    parser.add_argument("--columns", type=names, default=[], help="only these")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("outputs/tables"), help="where the runs go (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("results"), help="where the table goes (%(default)s)")
    parser.add_argument("--workers", type=count, default=1, help="cells at a time")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    parser.add_argument("--html", action="store_true", help="also OUTPUT/TABLE-PROFILE.html, a page over its runs")
    parser.add_argument("--render", action="store_true", help="the table of the runs that are there; run nothing")
    return parser.parse_intermixed_args(words)


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, allowed: an integer from 1")
    return int(text)


def numbers(text: str) -> list[int]:
    words = names(text)
    if not words or not all(word.isdigit() for word in words):
        raise argparse.ArgumentTypeError(f"got {text}, allowed: integers from 0 between commas, such as 0,1,2")
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        once = ",".join(map(str, dict.fromkeys(seeds)))
        raise argparse.ArgumentTypeError(f"got {text}, allowed: every seed once, as {once}")
    return seeds


def reproduce(options: argparse.Namespace) -> int:
    """0, or 1 where a run failed."""
    if options.list or options.table is None:
        print_tables()
        return 0 if options.list else 2
    if options.table == ALL_TABLES:
        return all_tables(options)
    text, code = make(options)
    print(text)
    return code


def make(options: argparse.Namespace) -> tuple[str, int]:
    """One table: its page, or with --dry-run its commands; and 1 where a run failed, else 0."""
    table = load_definition(options.table)
    profile = options.profile or next(iter(table.profiles))
    page = options.output / f"{options.table}-{profile}.html"
    if options.html:
        require_html(page)
    asked = cells(table, profile, options.rows, options.columns)
    folder = options.runs / options.table / profile
    seeds = options.seeds or table.profiles[profile].seeds or table.seeds
    if options.dry_run:
        return "\n".join(shlex.join(["quantlab", *command(cell, folder, seeds, options)]) for cell in asked), 0
    failed = 0 if options.render else run(table, asked, folder, seeds, options)
    text = write(measure(table, profile, cells(table, profile), folder), options)
    if options.html and find_runs([folder] if folder.is_dir() else []):
        with contextlib.redirect_stdout(io.StringIO()):  # its tables, of which `text` is the one asked for
            report([str(folder), "--html", str(page)])
    return text, failed


def all_tables(options: argparse.Namespace) -> int:
    """Every table that has the profile, one after the other, with a line each; 1 where a run of any failed."""
    having = [name for name in table_names() if options.profile in load_definition(name).profiles]
    if not having or options.rows or options.columns:
        profiles = dict.fromkeys(profile for name in table_names() for profile in load_definition(name).profiles)
        raise RequestError(
            f"all: takes a profile that tables share, and no --rows or --columns; allowed: {', '.join(profiles)}; type "
            "all --profile smoke"
        )
    codes = []
    for name in having:
        start = time.monotonic()
        text, code = make(argparse.Namespace(**{**vars(options), "table": name}))
        codes.append(code)
        how = "failed" if code else "made"
        place = f"{options.output / name}-{options.profile}.md"
        print(text if options.dry_run else f"{name}: {how} in {time.monotonic() - start:.0f} s, {place}", flush=True)
    return max(codes)


def print_tables() -> None:
    for name in table_names():
        table = load_definition(name)
        print(f"{name}: {table.title}")
        for profile, said in table.profiles.items():
            count = len(cells(table, profile))
            needs = f"; needs {said.needs}" if said.needs else ""
            print(f"  --profile {profile}: {said.title} ({count} cells, {len(said.seeds or table.seeds)} seeds{needs})")


def command(cell: Cell, folder: Path, seeds: Sequence[int], options: argparse.Namespace) -> list[str]:
    """The words of a sweep over the seeds of one cell, behind `quantlab`."""
    places = [f"output_dir={folder / cell.name}"] + ([f"data_dir={options.data_dir}"] if options.data_dir else [])
    values = ",".join(map(str, seeds))
    swept = values if len(seeds) > 1 else f"choice({values})"  # of one seed, too, the directory is called seed=N
    return ["-m", *cell.words, *options.words, f"seed={swept}", *places]


def run(
    table: TableDefinition, asked: list[Cell], folder: Path, seeds: Sequence[int], options: argparse.Namespace
) -> int:
    """Every cell in a process of its own; 1 where one failed. The first runs alone: it trains and caches the
    full-precision model that others share.
    """
    if options.words:
        refuse_wrong_words(command(asked[0], folder, seeds, options))
    folder.mkdir(parents=True, exist_ok=True)
    start = starts(table, asked, folder, options)
    asked = [cell._replace(words=[start(word) for word in cell.words]) for cell in asked]
    calls = [call(command(cell, folder, seeds, options), folder / f"{cell.name}.log") for cell in asked]
    places = places_of(options.workers, max(1, usable_cores() // options.workers))
    codes: list[int] = []
    with Bar(range(len(asked)), f"{options.table}, cells", unit="cell") as progress:

        def ended(_: int, code: int) -> None:
            codes.append(code)
            progress.update()

        run_all(calls[:1], places, ended, progress.redraw)
        run_all(calls[1:], places, ended, progress.redraw)
    return int(any(codes))


def refuse_wrong_words(words: list[str]) -> None:
    """Raises RequestError: what is wrong with the words of every run is found before the first."""
    arguments = read_arguments(words)
    with own_folders(arguments), removing_empty(check_request(arguments).new):
        pass


def starts(
    table: TableDefinition, asked: list[Cell], folder: Path, options: argparse.Namespace
) -> Callable[[str], str]:
    """Make the runs that the cells start from; a function that puts their directories into a word."""
    places = {}
    for name, words in table.first.items():
        if any(f"{{{name}}}" in word for cell in asked for word in cell.words):
            start = Cell("start", name, words)
            run_all(
                [call(command(start, folder, [0], options), folder / f"{start.name}.log")],
                places_of(1, usable_cores()),
                lambda index, code: None,
            )
            places[f"{{{name}}}"] = str((folder / start.name / "seed=0").resolve())

    def put(word: str) -> str:
        for braced, place in places.items():
            word = word.replace(braced, place)
        return word

    return put


def call(words: list[str], log: Path) -> Call:
    return Call(quantlab, (words,), log)


def write(measured: Measured, options: argparse.Namespace) -> str:
    """OUTPUT/TABLE-PROFILE.*; returns the Markdown."""
    words = [re.sub("=/.*", "=DIR", word) for word in options.words]  # places of this machine
    typed = ["python", "scripts/reproduce.py", options.table, "--profile", measured.profile, *words]
    line = " ".join(typed + (["--data-dir", "DIR"] if options.data_dir else []))
    options.output.mkdir(parents=True, exist_ok=True)
    stem = options.output / f"{options.table}-{measured.profile}"
    text = to_markdown(measured, line)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    stem.with_suffix(".json").write_text(to_json(measured, line), encoding="utf-8")
    rows = to_rows(measured)
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    if measured.table.x and measured.values:
        from quantlab.report.table_figure import table_curves

        table_curves(measured, stem.with_suffix(".png"))
    return text


if __name__ == "__main__":
    sys.exit(main())
