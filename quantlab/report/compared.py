"""Runs as tables: one for each task and protocol, with the columns that matter there."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from quantlab.report.labels import short_labels
from quantlab.report.metrics import heading
from quantlab.report.table import Row, aggregate, cell, grouped, metric_names, value_of

MOST_SETTINGS = 6  # columns; more settings share one
TITLES = {"peak_mib": "peak MiB"}
NOTHING = (None, "", {})


class RunTable(NamedTuple):
    """Runs and baselines of one task, measured in one way. `title`: the task, and what tells its protocol from those of
    the task's other tables; `common`: what all of the runs share, by column.
    """

    title: str
    task: str
    protocol: dict[str, Any]
    rows: list[Row]
    common: dict[str, Any]

    def means(self, by: Sequence[str] = ()) -> list[Row]:
        """Over seeds; or over all runs that are equal in the keys `by`."""
        return aggregate(self.rows, (*by,)) if by else aggregate(self.rows)

    def columns(self, rows: Sequence[Row]) -> list[str]:
        """Those that tell `rows` of this table apart, and their numbers; settings by the key of the config."""
        runs = [row for row in rows if not row["baseline"]]
        settings = list(
            dict.fromkeys(key for row in rows for key in _mapping(row.get("settings")) if key[-9:] != "._target_")
        )
        leading = [name for name in ("model", "bits") if name not in self.common]
        leading += settings if len(settings) <= MOST_SETTINGS else ["settings"]
        repeated = any(row.get("n", 1) > 1 for row in runs)
        leading += ["seeds", "n"] if repeated else ["seeds"] if any("seeds" in row for row in runs) else ["seed"]
        trailing = ["seconds", "peak_mib", "notes"]
        if not any("members" in row for row in rows):
            trailing += ["directory"] if "state" in self.common else ["state", "directory"]
        names = ["method", *leading, *metric_names(rows), *trailing]
        return [name for name in names if any(value_of(row, name) not in NOTHING for row in rows)]


def run_tables(rows: Sequence[Row]) -> list[RunTable]:
    """The tables of `rows` that have metrics, in order of first appearance."""
    measured = [row for row in rows if metric_names([row])]
    groups = list(
        grouped(measured, key=lambda row: repr([row["task"], sorted(row["protocol"].items(), key=repr)])).values()
    )
    titles = short_labels([group[0]["task"] for group in groups], [group[0]["protocol"] for group in groups])
    return [_table(title, group) for title, group in zip(titles, groups, strict=True)]


def _table(title: str, group: list[Row]) -> RunTable:
    runs = [row for row in group if not row["baseline"]] or group
    facts = ("model", "bits", "state")
    common = {name: runs[0].get(name) for name in facts if all(row.get(name) == runs[0].get(name) for row in runs)}
    return RunTable(title, group[0]["task"], group[0]["protocol"], group, common)


def column_title(name: str, names: Sequence[str] = ()) -> str:
    """Of a column; a key of the config by its last part where that is unlike those of the other columns `names`."""
    if "." not in name:
        return TITLES.get(name, heading(name))
    short = name.rpartition(".")[2]
    return name if sum(other.rpartition(".")[2] == short for other in names) > 1 else short


def cells(row: Row, columns: Sequence[str]) -> list[str]:
    """The texts of a row; settings that stand together are named shortly."""
    shown = []
    for name in columns:
        value = value_of(row, name)
        if name == "settings":
            value = {key.removeprefix("method."): one for key, one in _mapping(value).items()}
        shown.append("" if value in NOTHING and name in ("seed", "seeds", "bits") else cell(value, row.get("n")))
    return shown


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
