"""conf/table/NAME.yaml: a table that one command makes, as rows, columns and profiles of ordinary quantlab commands.

Every cell is an `experiment=...` and some words, run over seeds:

    words of the cell = words of the row + of the profile + of the column + of the row in that column
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from quantlab.config.catalog import CONF
from quantlab.errors import RequestError, did_you_mean
from quantlab.report.metrics import METRICS, reads_as_number
from quantlab.run.parsing import ParseError, read_yaml

TABLES = CONF / "table"
ALL = "all"  # the column of a row that does not depend on x: a level in its figure

Words = Annotated[list[str], BeforeValidator(lambda words: words.split() if isinstance(words, str) else words)]
Name = Annotated[str, Field(pattern=r"^[\w.+-]+$")]  # of a folder, too


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableRow(_Strict):
    """label: what a reader calls it. words: of every cell of the row. columns: more words, by column; where
    `only_these` is true, the row has no others, and without any it only quotes what is published. published: by column,
    the published value of each metric. needs: what a run needs that does not come with quantlab, in words.
    """

    label: Annotated[str, Field(min_length=1)]
    words: Words = []
    columns: dict[Name, Words] = {}
    only_these: bool = False
    published: dict[Name, dict[str, float]] = {}
    needs: str = ""

    @property
    def is_quoted(self) -> bool:
        return self.only_these and not self.columns


class TableProfile(_Strict):
    """What makes the table at one size, on one data set. columns and rows: those that it has, if not all."""

    title: str
    words: Words = []
    rows: list[Name] = []
    columns: list[Name] = []
    seeds: list[int] = []
    needs: str = ""


class TableDefinition(_Strict):
    """metrics: what the table shows; the CSV has all. compare: by row the rows that it is compared with, seed by seed;
    compared: in which metrics, if not in all. baselines: of results.json, which all runs share, and their labels.
    first: runs that others start from, by a name that words hold in braces. spread_over: what a seed changes.
    column_labels: what a reader calls columns whose names do not say it. x: what the columns are, where they are the
    numbers of a curve; log_x: on a logarithmic axis.
    """

    title: str
    source: str = ""  # of the published values
    spread_over: str
    metrics: list[str]
    seeds: list[int] = [0, 1, 2]
    rows: dict[Name, TableRow]
    columns: dict[Name, Words]
    column_labels: dict[Name, str] = {}
    compare: dict[Name, list[Name]] = {}
    compared: list[str] = []
    baselines: dict[Name, str] = {}
    first: dict[Name, Words] = {}
    profiles: dict[Name, TableProfile]
    x: str = ""
    log_x: bool = False

    @model_validator(mode="after")
    def _names_exist(self) -> "TableDefinition":
        rows = {*self.compare, *(other for others in self.compare.values() for other in others)}
        rows |= {name for profile in self.profiles.values() for name in profile.rows}
        columns = {name for profile in self.profiles.values() for name in profile.columns}
        columns |= {name for row in self.rows.values() for name in (*row.columns, *row.published)}
        columns |= {*self.column_labels}
        metrics = {
            *self.metrics,
            *self.compared,
            *(m for row in self.rows.values() for one in row.published.values() for m in one),
        }
        for kind, named, known in (
            ("row", rows, self.rows),
            ("column", columns, self.columns),
            ("metric", metrics, METRICS),
        ):
            if unknown := sorted(named - set(known)):
                raise ValueError(f"{kind} {unknown[0]!r} does not exist; allowed: {', '.join(known)}")
        if self.x and (odd := [name for name in self.columns if name != ALL and not reads_as_number(name)]):
            raise ValueError(f"x: column {odd[0]!r} is no number")
        return self


class Cell(NamedTuple):
    """One cell of a table: the command's words, without seed and places."""

    row: str
    column: str
    words: list[str]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.row}_{self.column}".lower()


def table_names() -> dict[str, Path]:
    """The tables there are, by name."""
    return {path.stem: path for path in sorted(TABLES.glob("*.yaml"))}


def load_definition(name: str) -> TableDefinition:
    """Raises RequestError for a table that does not exist, or is none."""
    names = table_names()
    if name not in names:
        raise RequestError(f"table: got {name!r}, allowed: {', '.join(names)}{did_you_mean(name, list(names))}")
    try:
        return TableDefinition.model_validate(read_yaml(names[name]))
    except (ValidationError, ParseError) as error:
        raise RequestError(f"{names[name]}: {' '.join(str(error).split())}") from error


def cells(table: TableDefinition, profile: str, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> list[Cell]:
    """The cells of a profile, or of those of its rows and columns.

    Raises RequestError for a profile, a row or a column that it does not have.
    """
    chosen = table.profiles[_known("profile", profile, table.profiles)]
    own_rows, own_columns = chosen.rows or list(table.rows), chosen.columns or list(table.columns)
    rows = [_known("row", row, own_rows) for row in rows] or own_rows
    columns = [_known("column", column, own_columns) for column in columns] or own_columns
    found = [
        Cell(row, column, [*own.words, *chosen.words, *table.columns[column], *own.columns.get(column, [])])
        for row in rows
        for column in columns
        for own in [table.rows[row]]
        if not own.only_these or column in own.columns
    ]
    if not found:
        having = [column for row in rows for column in own_columns if column in table.rows[row].columns]
        allowed = f"of {', '.join(rows)}: {', '.join(dict.fromkeys(having)) or 'none, which are only quoted'}"
        raise RequestError(f"column: got {', '.join(columns)}, allowed {allowed}")
    return found


def _known(kind: str, name: str, allowed: Any) -> str:
    if name not in allowed:
        raise RequestError(f"{kind}: got {name!r}, allowed: {', '.join(allowed)}{did_you_mean(name, list(allowed))}")
    return name
