"""The paper's Tables 1 to 3 of transition-rate-scheduled QAT: every row's experiment over seeds, next to the published
numbers.

    python scripts/qat_paper_tables.py 2 --data-dir DIR --only resnet20_cifar10_   # needs a GPU, see each experiment
    python scripts/qat_paper_tables.py 2 --data-dir DIR trainer.max_steps=20       # overrides for every run, for a test

Completed runs are skipped, so the script can be interrupted and restarted. Every run is an ordinary quantlab run.
ReActNet's first stage, W32A1, is run once for all its rows.
"""

import argparse
import re
import sys
from pathlib import Path

from tables import add_options, sweep_all, write_table

from quantlab.config.catalog import headline, options
from quantlab.report.runs import find_runs

PUBLISHED = re.compile(r"Table (?P<table>\d), (?P<row>.+): (?P<top1>[\d.]+) % top-1 in the paper")


def rows_of(table: int) -> dict[str, re.Match]:
    """The experiments of a table, by name without `qat/`, with the facts in their headers."""
    found = {name.removeprefix("qat/"): PUBLISHED.match(headline(path)) for name, path in options("experiment").items()}
    return {name: said for name, said in found.items() if said and int(said["table"]) == table}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=int, choices=(1, 2, 3))
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="for every run")
    add_options(parser, runs=Path("outputs/qat_paper"))
    arguments = parser.parse_intermixed_args()
    folder = arguments.runs / f"table{arguments.table}"
    rows = {name: said for name, said in rows_of(arguments.table).items() if name.startswith(arguments.only)}

    def network(name: str) -> str:
        return name.rsplit("_", 2)[0]

    def start(name: str) -> list[str]:
        found = find_runs([folder / "starts" / network(name)]) if name.startswith("reactnet") else []
        return [f"method.start='{run}'" for run in found]

    starts = {
        network(name): [f"experiment=qat/{name.rsplit('_', 1)[0]}_sgd", "quantizer.weight.bits=32", *arguments.words]
        for name in rows
        if name.startswith("reactnet")
    }
    failed = 0
    if starts:
        only_one = argparse.Namespace(**vars(arguments) | {"only": "", "first_seed": 0, "seeds": 1})
        failed |= sweep_all(starts, folder / "starts", only_one)
        if failed:
            print(f"the first stage failed: see {folder / 'starts'}", file=sys.stderr)
            return failed
    jobs = {name: [f"experiment=qat/{name}", *arguments.words, *start(name)] for name in rows}
    failed |= sweep_all(jobs, folder / "rows", arguments)
    name = f"qat_table{arguments.table}"
    text, measured = write_table(
        folder / "rows",
        name,
        f"Transition-rate-scheduled QAT, Table {arguments.table}",
        "the training; one full-precision model",
        arguments,
    )
    lines = ["| row | the paper's top-1 (%) | measured here, by seed |", "|---|---|---|"]
    for row, said in rows.items():
        here = [f"{one['top1']:.2f}" for one in measured if f"/{row}/" in one["directory"] and "top1" in one]
        lines.append(f"| {said['row']} | {said['top1']} | {', '.join(here) or '-'} |")
    text += "\n".join(["", "Beside the published numbers:", "", *lines, ""])
    (arguments.output / f"{name}.md").write_text(text)
    print(text)
    return failed


if __name__ == "__main__":
    sys.exit(main())
