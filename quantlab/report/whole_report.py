"""A report over many runs, as text: its tables with means and runs, and the runs that have no results."""

from collections.abc import Sequence
from typing import NamedTuple

from quantlab.report import table_formats
from quantlab.report.compared import RunTable, run_tables
from quantlab.report.selection import ordered
from quantlab.report.table import Row, metric_names, value_of

FORMATS = {"markdown": "md", "csv": "csv", "json": "json", "latex": "tex"}  # the endings of their files
UNFINISHED = ("task", "method", "model", "bits", "settings", "seed", "state", "error", "directory")


class Chosen(NamedTuple):
    """What a user asked for, by names that `selection.Names` resolved."""

    columns: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ()
    sort: tuple[str, ...] = ()
    backwards: bool = False


class Report:
    """rows: of runs, and after them of baselines."""

    def __init__(self, rows: Sequence[Row], chosen: Chosen | None = None):
        self.chosen = chosen or Chosen()
        self.rows = rows
        self.tables = run_tables(rows)
        self.unfinished = [row for row in rows if not row["baseline"] and not metric_names([row])]

    def text(self, form: str) -> str:
        """In one of `FORMATS`."""
        if form == "json":
            return table_formats.to_json(self.tables, self.chosen.group_by, self.unfinished)
        if form == "csv":
            return self._csv()
        parts = []
        for table in self.tables:
            rows = self.means(table)
            columns = self.columns(table, rows)
            if form == "latex":
                parts.append(table_formats.to_latex(table, rows, columns))
            else:
                parts.append(self._markdown(table))
        return "\n".join([*parts, *([] if form == "latex" else self._unfinished())])

    def means(self, table: RunTable) -> list[Row]:
        """Over seeds or what was asked for, in the order asked for; baselines last."""
        return self._sorted(table.means(self.chosen.group_by))

    def runs(self, table: RunTable) -> list[Row]:
        """Every run and baseline of a table, in the order asked for."""
        return self._sorted(table.rows)

    def columns(self, table: RunTable, rows: Sequence[Row]) -> list[str]:
        """Those asked for, or those that matter."""
        if self.chosen.columns:
            return list(self.chosen.columns)
        if not self.chosen.group_by:
            return table.columns(rows)
        named = ["method"] if "method" not in self.chosen.group_by and any(row["baseline"] for row in rows) else []
        numbers = [*metric_names(rows), "seconds", "peak_mib"]
        names = [*named, *self.chosen.group_by, "n", *numbers]
        return [name for name in names if any(value_of(row, name) not in (None, "") for row in rows)]

    def _sorted(self, rows: Sequence[Row]) -> list[Row]:
        rows = ordered(rows, self.chosen.sort, self.chosen.backwards)
        return rows if self.chosen.sort else sorted(rows, key=lambda row: bool(row["baseline"]))

    def _markdown(self, table: RunTable) -> str:
        means, runs = self.means(table), self.runs(table)
        repeated = any(row["n"] > 1 for row in means)
        shown = means if repeated or self.chosen.group_by else runs
        parts = [f"## {table.title}", table_formats.said_of_all(table)]
        if shown is means:
            over = f"runs equal in {', '.join(self.chosen.group_by)}" if self.chosen.group_by else "seeds"
            parts.append(f"Mean ± sample standard deviation over {over}.")
        parts.append(table_formats.to_markdown(shown, self.columns(table, shown)))
        if shown is means and not self.chosen.group_by:
            runs = [row for row in runs if not row["baseline"]]
            parts += ["### Runs", table_formats.to_markdown(runs, self.columns(table, runs))]
        return "\n\n".join(part for part in parts if part)

    def _csv(self) -> str:
        """One table over all tasks, so that a program reads it: the runs, or the groups asked for."""
        rows = [row for table in self.tables for row in (self.means if self.chosen.group_by else self.runs)(table)]
        if not self.chosen.group_by:
            rows = [*rows, *self.unfinished]
        names = [name for table in self.tables for name in table.columns(table.rows)]
        settings = [name for name in dict.fromkeys(names) if "." in name]
        if self.chosen.group_by:
            columns = [*self.chosen.group_by, "n", *metric_names(rows), "seconds", "peak_mib"]
        else:
            before = ("model", "bits", *settings, "settings", "seed", "protocol")
            columns = [*before, *metric_names(rows), "seconds", "peak_mib", "notes", "state", "error", "directory"]
        columns = list(self.chosen.columns) or [name for name in ("task", "method") if name not in columns] + columns
        return table_formats.to_csv(rows, columns)

    def _unfinished(self) -> list[str]:
        if not self.unfinished:
            return []
        columns = [name for name in UNFINISHED if any(row.get(name) not in (None, "", {}) for row in self.unfinished)]
        return [f"## Not completed\n\n{table_formats.to_markdown(self.unfinished, columns)}"]
