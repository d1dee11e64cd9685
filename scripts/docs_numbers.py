"""Measured numbers and tables in README.md and docs/, copied from results/: they are never typed.

    python scripts/docs_numbers.py            # after a table was made: rewrite what is marked in the pages
    python scripts/docs_numbers.py --check    # exit code 1 where a page is not up to date

What stands between a mark and `<!-- end -->` is replaced. FILE is a Markdown file of results/ without `.md`, HEADING
the first word of one of its headings (* for the first table), ROW and COLUMN are spelled as in its table:

    <!-- cell: FILE / HEADING / ROW / COLUMN -->       one cell, within a line
    <!-- table: FILE / HEADING -->                     a whole table, on lines of its own
    <!-- compared: FILE / ROW -->                      in words, what the paired tests say of a row
    <!-- figure: FILE -->                              FILE.png; of `overview`, which scripts/docs_overview.py draws
                                                       from four tables, until then a picture of samples

A table of conf/table that has not been made yet, or not all of it, is said to be "not measured yet". Everything else
that is not there is a mistake in the page.
"""

import argparse
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import docs_overview

from quantlab.errors import RequestError, did_you_mean
from quantlab.report.measured_table import column_label, label, labels
from quantlab.report.metrics import METRICS
from quantlab.report.table_definition import TableDefinition, load_definition, table_names

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"(<!-- (\w+): ([^\n]*?) -->)(.*?)(<!-- end -->)", re.DOTALL)
MISSING = "not measured yet"
OVERVIEW, SAMPLES = "overview", "accuquant_digits_w4a6.png"


class Page(NamedTuple):
    """A page with marks, and where its numbers come from."""

    path: Path
    results: Path

    def link(self, target: Path) -> str:
        """As it is written in the page."""
        return Path(os.path.relpath(target, self.path.parent)).as_posix()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="rewrite nothing, name the pages that are not up to date")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="where tables are (results)")
    options = parser.parse_args()
    current = docs_overview.is_current(options.results)
    if not (current or options.check):
        docs_overview.draw(options.results)
    try:
        changed = list(rewritten(PAGES, options.results))
    except RequestError as error:
        print(f"docs_numbers: error: {error}", file=sys.stderr)
        return 2
    if not current:
        print(f"{OVERVIEW}.png: {'not up to date' if options.check else 'drawn'}")
    for path, text in changed:
        print(f"{path.relative_to(ROOT)}: {'not up to date' if options.check else 'rewritten'}")
        if not options.check:
            path.write_text(text, "utf-8")
    return int(options.check and not (current and not changed))


def rewritten(paths: Sequence[Path], results: Path) -> Iterator[tuple[Path, str]]:
    """Those pages that are not up to date, and their text as it should be. Raises RequestError for a mark that names
    what cannot exist.
    """
    for path in paths:
        page, text = Page(path, results), path.read_text("utf-8")
        new = MARK.sub(lambda found, page=page: found[1] + filled(page, found[2], found[3]) + found[5], text)
        if new != text:
            yield path, new


def filled(page: Page, kind: str, words: str) -> str:
    """What stands behind a mark."""
    file, *rest = (word.strip() for word in words.split(" / "))
    kinds: dict[str, tuple[int, Callable[..., str]]] = {
        "cell": (3, cell),
        "table": (1, table),
        "compared": (1, compared),
        "figure": (0, figure),
    }
    if kind not in kinds or len(rest) != kinds[kind][0]:
        raise RequestError(f"{page.path.name}: got {kind}: {words}, allowed: see python scripts/docs_numbers.py --help")
    try:
        return kinds[kind][1](page, file, *rest)
    except RequestError as error:
        raise RequestError(f"{page.path.name}: {kind}: {words}: {error}") from None


def cell(page: Page, file: str, heading: str, row: str, column: str) -> str:
    """The number without its emphasis: which one is best is said in the table."""
    lines = table_lines(page.results, file, heading)
    if lines is not None:
        names, rows = cells_of(lines[0]), {cells[0]: cells for cells in map(cells_of, lines[2:])}
        if column in names and row in rows and rows[row][names.index(column)]:
            return rows[row][names.index(column)].replace("*", "")
    definition, _ = defined(file)
    if definition is None:
        raise RequestError("no such cell")
    columns = [column_label(definition, name) for name in definition.columns]
    shown = [label(definition, name) for name in [*definition.baselines, *definition.rows]]
    for name, allowed, named in ((row, labels(definition), shown), (column, columns, columns)):
        if name not in allowed:
            raise RequestError(f"got {name!r}, allowed: {', '.join(named)}{did_you_mean(name, named)}")
    return MISSING


def table(page: Page, file: str, heading: str) -> str:
    """The table, what its cells are, and a link to all that was measured with it."""
    lines = table_lines(page.results, file, heading)
    if lines is None:
        return f"\n*{MISSING.capitalize()}: `{command(file)}` makes it.*\n"
    path = page.results / f"{file}.md"
    said = [
        line for line in path.read_text("utf-8").splitlines() if line.startswith(("Mean ± ", "One seed, ", "Published"))
    ]
    below = " ".join([*said, f"How it was made, and all numbers: [results/{file}.md]({page.link(path)})."])
    return "\n\n" + "\n".join([*lines, "", below]) + "\n\n"


def compared(page: Page, file: str, row: str) -> str:
    """One line for each row that `row` is compared with, and each metric; nothing where there is none, since the table
    beside it says what has not been measured.
    """
    definition, _ = defined(file)
    labels = {} if definition is None else {label(definition, name): name for name in definition.compare}
    if definition is None or row not in labels:
        raise RequestError(f"got {row!r}, allowed: {', '.join(labels) or 'rows of a table of conf/table'}")
    path = page.results / f"{file}.json"
    found = json.loads(path.read_text("utf-8"))["comparisons"] if path.is_file() else []
    found = [one for one in found if one["row"] == labels[row]]
    pairs = dict.fromkeys((one["other"], one["metric"]) for one in found)
    chance = f"[outside chance]({page.link(ROOT / 'docs' / 'tables.md')})"
    lines = [
        verdict(
            f"{row} against {label(definition, other)}, {metric}",
            metric,
            of_pair,
            chance,
            lambda column: column_label(definition, column),
        )
        for other, metric in pairs
        for of_pair in [[one for one in found if (one["other"], one["metric"]) == (other, metric)]]
    ]
    return "\n\n" + "\n".join(lines) + "\n\n" if lines else "\n"


def verdict(names: str, metric: str, comparisons: Sequence[dict], chance: str, name: Callable[[str], str]) -> str:
    """In which columns the mean difference is in whose favour, and where it is outside chance."""
    sign = 1 if METRICS[metric].better == "↑" else -1
    words: dict[str, list[str]] = {"better": [], "worse": [], "equal": []}
    for one in comparisons:
        mean = sign * one["difference"]["mean"]
        words["better" if mean > 0 else "worse" if mean < 0 else "equal"].append(name(one["column"]))
    said = ", ".join(f"{word} in the mean in {', '.join(columns)}" for word, columns in words.items() if columns)
    outside = [name(one["column"]) for one in comparisons if one["holm"] is not None and one["holm"] < 0.05]
    return f"- {names}: {said}; {chance}: {', '.join(outside) or 'none'}"


def figure(page: Page, file: str) -> str:
    """Nothing where it is not there: the table beside it says that it has not been measured."""
    definition, profile = defined(file)
    path = page.results / f"{file}.png"
    if file == OVERVIEW:
        title = "One measured comparison of each method" if path.is_file() else "Full precision, W4A6, their difference"
        return f"\n\n![{title}]({page.link(path if path.is_file() else page.results / SAMPLES)})\n\n"
    if not path.is_file():
        if definition is None or not definition.x:
            raise RequestError("no such picture")
        return "\n"
    title = path.stem if definition is None else f"{definition.title}: {definition.profiles[profile].title}"
    return f"\n\n![{title}]({page.link(path)})\n\n"


def table_lines(results: Path, file: str, heading: str) -> list[str] | None:
    """The lines of the table under a heading; None where it is defined and not measured yet."""
    definition, _ = defined(file)
    path = results / f"{file}.md"
    if path.is_file():
        lines = iter(path.read_text("utf-8").splitlines())
        for line in lines:
            if heading == "*" or (line.startswith("#") and heading == line.lstrip("# ").split(" ")[0]):
                rest = [line, *lines]
                start = next((place for place, one in enumerate(rest) if one.startswith("|")), len(rest))
                length = next((place for place, one in enumerate(rest[start:]) if not one.startswith("|")), None)
                return rest[start:][:length]
    if definition is None:
        raise RequestError(f"results/{file}.md has no such table")
    if heading not in definition.metrics:
        raise RequestError(f"got {heading!r}, allowed: {', '.join(definition.metrics)}")
    return None


def cells_of(line: str) -> list[str]:
    return [word.strip() for word in line.strip().strip("|").split("|")]


@functools.cache
def defined(file: str) -> tuple[TableDefinition | None, str]:
    """The definition and the profile that `scripts/reproduce.py` makes a file from; None for files of other scripts."""
    name, _, profile = file.rpartition("-")
    if name not in table_names():
        return None, ""
    definition = load_definition(name)
    if profile not in definition.profiles:
        raise RequestError(f"profile: got {profile!r}, allowed: {', '.join(definition.profiles)}")
    return definition, profile


def command(file: str) -> str:
    """What makes a file of a table of conf/table."""
    definition, profile = defined(file)
    data = " --data-dir DIR" if definition is not None and definition.profiles[profile].needs else ""
    return f"python scripts/reproduce.py {file.rpartition('-')[0]} --profile {profile}{data}"


if __name__ == "__main__":
    sys.exit(main())
