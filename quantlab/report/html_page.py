"""One page for a browser over any number of runs: tables, curves, pictures, commands, configs. It needs no network.

The page is data and one script (`run_page.js`) that shows it. What comes from run directories is only ever in the data,
as JSON in which no tag can be closed, and the script puts it on the page as text; the page's content policy runs no
other script and loads nothing from anywhere. Curves are drawn by plotly, whose script is on the page once: well kept,
zooms and tells values without a server, and costs 5 MB, of which nothing is run before the first curve is seen.
"""

import base64
import hashlib
import json
import math
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from quantlab import __version__
from quantlab.errors import QuantlabError
from quantlab.report.compared import cells, column_title
from quantlab.report.curve_styles import line_styles
from quantlab.report.labels import short_labels
from quantlab.report.metrics import METRICS, is_number
from quantlab.report.page import captioned_pictures, commands
from quantlab.report.protocol import protocol_words
from quantlab.report.table import NOT_SETTINGS, Row, cell, value_of
from quantlab.report.table_formats import is_numeric
from quantlab.report.thumbnails import thumbnails
from quantlab.report.whole_report import Report
from quantlab.run.atomic_files import atomic_write
from quantlab.run.directory import RunDirectory

MOST_POINTS = 300_000  # of all curves
FEWEST_POINTS = 60  # of one curve, where it has more
LONGEST_VALUE = 300  # letters of one value of a config


def write_html(report: Report, rows: Sequence[Row], runs: Sequence[dict[str, Any]], file: Path) -> list[str]:
    """Write the page of `runs`, whose rows are `rows`; returns a line for whatever had to be left out."""
    left_out: list[str] = []
    data = _data(report, rows, runs, file.parent, left_out)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, _page(data))
    return left_out


def _page(data: dict[str, Any]) -> str:
    from plotly.offline import get_plotlyjs

    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # in a script of another type, only these can end it or begin a comment
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    files = resources.files("quantlab.report")
    style, own = (files.joinpath(f"run_page.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js"))
    plotly = get_plotlyjs()
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in (plotly, own))
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>quantlab: {len(data["runs"])} run{"s"[: len(data["runs"]) != 1]}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page needs JavaScript; comparison.md of quantlab-report does not.</noscript>
<script type="application/json" id="data">{text}</script>
<script type="text/plain" id="plotly">{plotly}</script>
<script>{own}</script>
</body>
</html>
"""


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _data(
    report: Report, rows: Sequence[Row], runs: Sequence[dict[str, Any]], folder: Path, left_out: list[str]
) -> dict[str, Any]:
    directories = [RunDirectory(run["directory"]) for run in runs]
    pictures = [captioned_pictures(directory, run["config"]) for directory, run in zip(directories, runs, strict=True)]
    images = thumbnails([list(files) for files in pictures])
    missing = sum(uri is None for uris in images for uri in uris)
    if missing:
        left_out.append(f"{missing} of {sum(map(len, images))} pictures are links on the page, to keep it small")
    curves = _curves(directories, left_out)
    places = {row["directory"]: place for place, row in enumerate(rows)}
    labels = _labels(rows, curves)
    values: dict[str, int] = {}
    keys = list(dict.fromkeys(key for row in rows for key in row["configuration"]))
    shown = [
        {
            "directory": row["directory"],
            "label": label,
            "method": row["method"],
            "seed": cell(row["seed"]),
            "state": row["state"],
            "error": row["error"] if isinstance(row["error"], str) else "",
            "notes": row["notes"],
            "commands": _commands(run, directory),
            "config": [_place(row["configuration"], key, values) for key in keys],
            "pictures": [
                {"caption": caption, "name": picture.name, "image": uri, "link": _link(picture, folder)}
                for (picture, caption), uri in zip(files.items(), uris, strict=True)
            ],
            **_sharing_steps(own),
        }
        for row, label, run, directory, files, uris, own in zip(
            rows, labels, runs, directories, pictures, images, curves, strict=True
        )
    ]
    return {
        "version": __version__,
        "colors": {method: style["color"] for method, style in line_styles(row["method"] for row in rows).items()},
        "runs": shown,
        "keys": keys,
        "values": list(values),
        "not_settings": [key for key in keys if key.startswith(NOT_SETTINGS)],
        "tables": [_table(report, table, places) for table in report.tables],
        "unfinished": [places[row["directory"]] for row in report.unfinished],
    }


def _table(report: Report, table: Any, places: dict[str, int]) -> dict[str, Any]:
    rows = report.runs(table)
    columns = [name for name in report.columns(table, rows) if name != "seeds"]
    return {
        "title": table.title,
        "common": ", ".join(str(value) for name, value in table.common.items() if value and name != "state"),
        "protocol": protocol_words(table.protocol),
        "columns": [
            {
                "title": column_title(name, columns),
                "numeric": is_numeric(rows, name),
                "better": METRICS[name].better if name in METRICS else "",
                "meaning": METRICS[name].meaning if name in METRICS else name if "." in name else "",
            }
            for name in columns
        ],
        "rows": [
            {
                "run": None if row["baseline"] else places[row["directory"]],
                "cells": cells(row, columns),
                "sort": [_sortable(value_of(row, name)) for name in columns],
            }
            for row in rows
        ],
    }


def _sortable(value: Any) -> Any:
    return value if is_number(value) and math.isfinite(value) else None


def _labels(rows: Sequence[Row], curves: Sequence[dict[str, Any]]) -> list[str]:
    """Equal for runs that differ in nothing but the seed."""
    lengths = [max((series["x"][-1] for series in own.values()), default=0) for own in curves]
    facts = [
        {"bits": row["bits"], "model": row["model"], **row["settings"], "length": f"{length} steps"}
        | {f"protocol.{key}": value for key, value in row["protocol"].items()}
        | {"task": row["task"]}
        for row, length in zip(rows, lengths, strict=True)
    ]
    return short_labels([row["method"] for row in rows], facts)


def _commands(run: dict[str, Any], directory: RunDirectory) -> list[tuple[str, str]]:
    """None for a run whose config cannot be what it seems: a page over many runs does not fail by one."""
    try:
        return commands(run, directory)
    except (KeyError, TypeError, AttributeError, ValueError, OSError, QuantlabError):
        return []


def _place(configuration: dict[str, Any], key: str, values: dict[str, int]) -> int | None:
    """The place among `values` of a key's value; None where the config lacks the key."""
    if key not in configuration:
        return None
    value = configuration[key]
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return values.setdefault(text[:LONGEST_VALUE], len(values))


def _link(picture: Path, folder: Path) -> str:
    """From the page to the picture; begins with a dot, so that no name makes it an address of another kind."""
    relative = os.path.relpath(picture.resolve(), folder.resolve())
    return quote(relative if relative.startswith(".") else f"./{relative}", errors="surrogateescape")


def _curves(directories: Sequence[RunDirectory], left_out: list[str]) -> list[dict[str, dict[str, list[Any]]]]:
    """By name, steps (x) and values (y) of every number that a run logged; of long curves every so many points."""
    logged = []
    for directory in directories:
        try:
            logged.append(_logged(directory.metrics.read()))
        except (OSError, QuantlabError) as error:
            left_out.append(f"left out of the curves: {error}")
            logged.append({})
    points = max(FEWEST_POINTS, MOST_POINTS // max(1, sum(map(len, logged))))
    return [{name: _thinned(*curve, points) for name, curve in curves.items()} for curves in logged]


def _sharing_steps(curves: dict[str, dict[str, list[Any]]]) -> dict[str, Any]:
    """`steps`: the distinct lists of steps; `curves`: by name the place of its list among them, and the values."""
    steps: dict[tuple[int, ...], int] = {}
    own = {name: [steps.setdefault(tuple(curve["x"]), len(steps)), curve["y"]] for name, curve in curves.items()}
    return {"steps": list(steps), "curves": own}


def _logged(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for key, value in row.items():
            if key != "step" and is_number(value):
                steps, values = curves.setdefault(key, ([], []))
                steps.append(row["step"])
                values.append(value)
    return curves


def _thinned(steps: list[int], values: list[float], points: int) -> dict[str, list[Any]]:
    """At most about `points` of them: of each stretch the least and the greatest, so that no spike is lost."""
    places = list(range(len(steps)))
    if len(places) > points:
        width = -(-2 * len(places) // points)
        stretches = [places[first : first + width] for first in range(0, len(places), width)]
        keep = {0, len(places) - 1}
        for stretch in stretches:
            keep |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
        places = sorted(keep)
    shown = [float(f"{values[place]:.5g}") for place in places]
    return {"x": [steps[place] for place in places], "y": [one if math.isfinite(one) else None for one in shown]}
