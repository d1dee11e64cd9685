"""Tables as Markdown, CSV, JSON and LaTeX."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from quantlab.report.compared import RunTable, cells, column_title
from quantlab.report.metrics import is_number
from quantlab.report.protocol import protocol_words
from quantlab.report.table import Row, Spread, cell, metric_names, value_of

LATEX = {one: f"\\{one}" for one in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
}


def to_markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """One table, numbers to the right."""
    lines = [_line([column_title(name, columns) for name in columns])]
    lines.append("|" + "|".join("---:" if is_numeric(rows, name) else "---" for name in columns) + "|")
    return "\n".join([*lines, *(_line(cells(row, columns)) for row in rows)]) + "\n"


def said_of_all(table: RunTable) -> str:
    """What stands once beside a table: what its runs share, and how they were measured."""
    shared = ", ".join(str(value) for name, value in table.common.items() if value and name != "state")
    protocol = protocol_words(table.protocol)
    lines = [f"All runs: {shared}." if shared else "", f"Protocol: {protocol}." if protocol else ""]
    return "\n".join(line for line in lines if line)


def to_latex(table: RunTable, rows: Sequence[Row], columns: Sequence[str]) -> str:
    """One booktabs table: needs `\\usepackage{booktabs}`."""
    places = "".join("r" if is_numeric(rows, name) else "l" for name in columns)
    titles = [_latex(column_title(name, columns)) for name in columns]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(' '.join([f'{table.title}.', said_of_all(table)]).strip())}}}",
        rf"\begin{{tabular}}{{{places}}}",
        r"\toprule",
        " & ".join(titles) + r" \\",
        r"\midrule",
        *(" & ".join(map(_latex, cells(row, columns))) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """All rows in one table, in full precision; a `Spread` becomes two columns, the mean and `<name>_sd`."""
    lines = []
    for row in rows:
        line: dict[str, Any] = {}
        for name in columns:
            value = value_of(row, name)
            if isinstance(value, Spread):
                line |= {name: value.mean, f"{name}_sd": value.deviation}
            else:
                line[name] = cell(value) if isinstance(value, dict) else value
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(name for line in lines for name in line), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def to_json(tables: Sequence[RunTable], by: Sequence[str], unfinished: Sequence[Row]) -> str:
    """Every table with its means and its runs; numbers that are not finite become null."""
    content = {
        "tables": [
            {"task": table.task, "protocol": table.protocol}
            | {"means": [_plain(row, by) for row in table.means(by)], "runs": [_plain(row) for row in table.rows]}
            for table in tables
        ],
        "not_completed": [_plain(row) for row in unfinished],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"


def is_numeric(rows: Sequence[Row], name: str) -> bool:
    """Whether any of the rows has a number in this column."""
    values = [value_of(row, name) for row in rows]
    return any(is_number(value) or isinstance(value, Spread) for value in values)


def _plain(row: Row, by: Sequence[str] = ()) -> dict[str, Any]:
    names = ("baseline", "method", "model", "bits", "settings", *by, "seed", "seeds", "n")
    after = ("seconds", "peak_mib", "notes", "state", "error", "directory")
    found = {name: value_of(row, name) for name in (*names, *metric_names([row]), *after) if name in row or name in by}
    return {name: _number(value) for name, value in found.items() if value not in (None, "")}


def _number(value: Any) -> Any:
    if isinstance(value, Spread):
        return {key: _number(one) for key, one in value._asdict().items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _latex(text: str) -> str:
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], text).replace("\n", " ")


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"
