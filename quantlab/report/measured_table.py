"""A table of `table_definition` as measured: from run directories to Markdown, CSV, JSON and a figure."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantlab.config.sections import of_group, section_in
from quantlab.errors import CorruptFileError
from quantlab.report.metrics import METRICS, format_number, heading, is_number
from quantlab.report.paired import Comparison, compare, holm
from quantlab.report.runs import find_runs, flatten, read_run
from quantlab.report.table import Spread, split_common, spread
from quantlab.report.table_definition import Cell, TableDefinition


@dataclass
class Measured:
    """What the runs of a table gave. values: by row, column and metric its value of each seed. Rows are those of the
    definition, and after each, as `ROW, uncorrected`, the baselines that its method wants beside it.
    """

    table: TableDefinition
    profile: str
    columns: list[str]
    values: dict[tuple[str, str, str], dict[int, float]] = field(default_factory=dict)
    seconds: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # by cell, why it has no number
    commits: set[str] = field(default_factory=set)
    protocols: list[dict[str, Any]] = field(default_factory=list)
    machines: set[str] = field(default_factory=set)

    @property
    def rows(self) -> list[str]:
        """Those that have a number, in the order of the definition."""
        return self.in_order({row for row, _, _ in self.values})

    def in_order(self, rows: Iterable[str]) -> list[str]:
        """Rows as the definition has them."""
        order = [*self.table.baselines, *self.table.rows]
        return sorted(rows, key=lambda row: (order.index(row.split(", ")[0]), row))

    @property
    def metrics(self) -> list[str]:
        """Those of the definition that any row has."""
        return [name for name in self.table.metrics if any(metric == name for _, _, metric in self.values)]

    def seeds(self) -> list[int]:
        """All seeds that any cell has."""
        return sorted({seed for values in self.values.values() for seed in values})

    def spread(self, row: str, column: str, metric: str) -> Spread | None:
        """None where the cell has no number."""
        values = self.values.get((row, column, metric))
        return spread(list(values.values())) if values else None

    def best(self, column: str, metric: str) -> set[str]:
        """The rows of the best mean among a row and all that are compared with it, of each such set of rows."""
        choose = max if METRICS[metric].better == "↑" else min
        found = set()
        for row, others in self.table.compare.items():
            means = {one: cell.mean for one in (row, *others) if (cell := self.spread(one, column, metric)) is not None}
            if len(means) > 1:
                best = choose(means.values())
                found |= {one for one, mean in means.items() if mean == best}
        return found

    def comparisons(self) -> list[Comparison]:
        """Every comparison of the definition, in every column and metric, Holm-corrected together."""
        found = []
        for row, others in self.table.compare.items():
            for other in others:
                for metric in [name for name in self.metrics if name in (self.table.compared or self.metrics)]:
                    for column in self.columns:
                        ours, theirs = (self.values.get((name, column, metric), {}) for name in (row, other))
                        if (one := compare(row, other, column, metric, ours, theirs)) is not None:
                            found.append(one)
        return holm(found)


def measure(table: TableDefinition, profile: str, cells: Iterable[Cell], folder: Path) -> Measured:
    """Read the runs of `cells` under `folder`, each in the folder of its cell's name."""
    cells = list(cells)
    measured = Measured(table, profile, list(dict.fromkeys(cell.column for cell in cells)))
    for cell in cells:
        place = folder / cell.name
        runs, unreadable = _read(place)
        finished = [run for run in runs if run["results"] is not None]
        if unreadable or not finished:
            measured.missing[f"{label(table, cell.row)}, {column_label(table, cell.column)}"] = unreadable or _reason(
                place, runs
            )
        for run in finished:
            _add(measured, cell, run)
    return measured


def _read(place: Path) -> tuple[list[dict[str, Any]], str]:
    """The runs in the folder of a cell, and what is wrong with those that cannot be read."""
    runs, wrong = [], []
    for directory in find_runs([place]) if place.is_dir() else []:
        try:
            runs.append(read_run(directory))
        except (CorruptFileError, OSError) as error:
            wrong.append(f"{error}; remove that directory and type the command again")
    return runs, "; ".join(wrong)


def _add(measured: Measured, cell: Cell, run: dict[str, Any]) -> None:
    results, seed = run["results"], run["results"].get("seed")
    method = section_in("method", run["config"])
    baselines = results.get("baseline") or {}
    own = method.row_baselines if method is not None else ()
    numbers = {cell.row: results["metrics"]} | {
        f"{cell.row}, {name}": baselines[name] for name in own if name in baselines
    }
    numbers |= {name: baselines[name] for name in measured.table.baselines if name in baselines}
    for row, metrics in numbers.items():
        for metric, value in metrics.items():
            if is_number(value):
                measured.values.setdefault((row, cell.column, metric), {})[seed] = float(value)
    cost, provenance = results.get("cost") or {}, results.get("provenance") or {}
    if is_number(cost.get("seconds")):
        measured.seconds.setdefault((cell.row, cell.column), {})[seed] = cost["seconds"]
    measured.commits.add((provenance.get("commit") or "unknown")[:12])
    measured.machines.add(str(provenance.get("device", "cpu")))
    measured.protocols.append(dict(flatten(results.get("protocol") or {})))


def _reason(place: Path, runs: Sequence[dict[str, Any]]) -> str:
    """Why a cell has no number: the error of its run, or of the command that was to make it."""
    errors = [run["error"] for run in runs if run["error"]]
    log = place.with_name(f"{place.name}.log")
    if not errors and log.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.removeprefix("quantlab: error: ") for line in lines if line.startswith("quantlab: error: ")]
    return errors[-1] if errors else "not run yet" if not runs else "not finished"


def label(table: TableDefinition, row: str) -> str:
    """What a row is called, its baselines too."""
    if row in table.baselines:
        return table.baselines[row]
    name, *baseline = row.split(", ")
    return ", ".join([table.rows[name].label, *(_baseline_words()[one] for one in baseline)])


def labels(table: TableDefinition) -> list[str]:
    """All rows that it may have, as `label` calls them."""
    rows = [f"{name}{baseline}" for name in table.rows for baseline in ("", *(f", {one}" for one in _baseline_words()))]
    return [label(table, name) for name in [*table.baselines, *rows]]


def column_label(table: TableDefinition, column: str) -> str:
    """What a column is called."""
    return table.column_labels.get(column, column)


def _baseline_words() -> dict[str, str]:
    """What tables call the baselines that a method wants beside a row."""
    return {name: words for method in of_group("method") for name, words in method.row_baselines.items()}


def to_markdown(measured: Measured, command: str) -> str:
    """The whole page: a matrix of rows and columns for each metric, comparisons, and what made it."""
    table, profile = measured.table, measured.table.profiles[measured.profile]
    parts = [f"# {table.title}", profile.title]
    if not measured.values:
        parts.append("Nothing has been run yet.")
    for metric in measured.metrics:
        meaning = METRICS[metric].meaning
        parts.append(f"## {heading(metric)}\n\n{meaning[:1].upper()}{meaning[1:]}.\n\n{_matrix(measured, metric)}")
    if comparisons := measured.comparisons():
        parts.append(f"## Compared seed by seed\n\n{_comparison_lines(measured, comparisons)}")
    if measured.missing:
        lines = [f"- {name}: {reason}" for name, reason in measured.missing.items()]
        needs = [
            f"- {label(table, name)} needs {row.needs}"
            for name, row in table.rows.items()
            if row.needs
            and profile.needs
            and any(cell.startswith(f"{label(table, name)},") for cell in measured.missing)
        ]
        parts.append("\n".join(["## Not here", "", *needs, *lines]))
    parts.append(_made_by(measured, command))
    return "\n\n".join(parts) + "\n"


def _matrix(measured: Measured, metric: str) -> str:
    table, rows = measured.table, measured.rows
    quoted = [name for name, row in table.rows.items() if row.is_quoted]
    columns = [column for column in measured.columns if any((row, column, metric) in measured.values for row in rows)]
    names = [column_label(table, column) for column in columns]
    lines = [_line([f"{table.x} →" if table.x else "", *names]), "|---|" + "---:|" * len(columns)]
    best = {column: measured.best(column, metric) for column in columns}
    seeds = len(measured.seeds())
    for row in measured.in_order({*rows, *quoted}):
        shown = [_cell(measured.spread(row, column, metric), seeds, row in best[column]) for column in columns]
        if any(shown):
            lines.append(_line([label(table, row), *shown]))
        published = [
            table.rows[row].published.get(column, {}).get(metric) if row in table.rows else None for column in columns
        ]
        if any(value is not None for value in published):
            said = ["" if value is None else f"*{format_number(value)}*" for value in published]
            lines.append(_line([f"*{label(table, row)}, published*", *said]))
    return "\n".join(lines)


def _cell(found: Spread | None, seeds: int, best: bool) -> str:
    if found is None:
        return ""
    text = f"**{found}**" if best else str(found)
    return text if found.n == seeds else f"{text} (n={found.n})"


def _comparison_lines(measured: Measured, comparisons: Sequence[Comparison]) -> str:
    lines = [
        _line(["", "metric", "column", "difference or ratio", "better in", "p", "p, Holm"]),
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for one in comparisons:
        names = f"{label(measured.table, one.row)} against {label(measured.table, one.other)}"
        significant = one.holm is not None and one.holm < 0.05
        p_values = ["–" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in (one.p, one.holm)]
        if significant:
            p_values[1] = f"**{p_values[1]}**"
        wins = f"{one.wins} of {one.difference.n}"
        column = column_label(measured.table, one.column)
        lines.append(_line([names, one.metric, column, str(one), wins, *p_values]))
    many = "one comparison" if len(comparisons) == 1 else f"{len(comparisons)} comparisons"
    below = (
        "Over equal seeds: differences, mean ± standard deviation; of distances (FID, MSE) ratios, geometric mean and"
        " the factor of one standard deviation. Student's paired t-test, two-sided (of ratios, on their logarithms),"
        f" and its p after Holm's correction for the {many} of this table. Bold: below .05."
    )
    return "\n".join([*lines, "", below])


def _made_by(measured: Measured, command: str) -> str:
    table = measured.table
    common, _ = split_common(measured.protocols)
    seconds = [value for cell in measured.seconds.values() for value in cell.values()]
    said = [
        f"Made by `{command}`.",
        f"{_seed_words(measured.seeds())} of {table.spread_over}; bold: the best mean of the rows that are compared."
        if measured.values
        else "",
        f"Runs at commit {', '.join(sorted(measured.commits))} on {', '.join(sorted(measured.machines))},"
        f" {platform.machine()}, {sum(seconds) / 3600:.1f} hours in all."
        if seconds
        else "",
        f"Protocol: {', '.join(f'{key}={value}' for key, value in common.items())}." if common else "",
        f"Published{', in italics' if any(row.published for row in table.rows.values()) else ''}: {table.source}."
        if table.source
        else "",
    ]
    return "## How it was made\n\n" + "\n".join(line for line in said if line)


def _seed_words(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"One seed, {seeds[0]},"
    return f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def to_rows(measured: Measured) -> list[dict[str, Any]]:
    """One dict per row, column and seed: for the CSV and the JSON."""
    metrics = list(dict.fromkeys(metric for _, _, metric in measured.values))
    places = dict.fromkeys((row, column) for row, column, _ in measured.values)
    found = []
    for row, column in places:
        for seed in measured.seeds():
            numbers = {
                metric: values[seed]
                for metric in metrics
                if seed in (values := measured.values.get((row, column, metric), {}))
            }
            if numbers:
                seconds = measured.seconds.get((row, column), {}).get(seed)
                found.append({"row": row, "column": column, "seed": seed} | numbers | {"seconds": seconds})
    return found


def to_json(measured: Measured, command: str) -> str:
    """Everything that the Markdown says, as data."""
    content: Mapping[str, Any] = {
        "title": measured.table.title,
        "profile": measured.profile,
        "command": command,
        "commits": sorted(measured.commits),
        "runs": to_rows(measured),
        "comparisons": [one._asdict() | {"difference": one.difference._asdict()} for one in measured.comparisons()],
        "missing": measured.missing,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
