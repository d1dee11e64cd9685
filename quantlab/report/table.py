"""Tables over any number of runs: one row per run, means over seeds, Markdown and CSV.

Numbers are averaged only over runs that differ in nothing but the seed. In particular an FID over 64 samples and one
over 1024, or two with different feature networks, are different quantities: the protocol is part of what groups rows.
"""

import csv
import math
import statistics
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quantlab.config.sections import section_in
from quantlab.report.metrics import column_order, format_bits, format_number, heading, is_number
from quantlab.report.runs import flatten, short_path

Row = dict[str, Any]

SAME = ("method", "settings", "task", "model", "bits", "protocol")  # what rows averaged together have in common
LEADING = ("method", "settings", "task", "model", "bits", "seed", "seeds", "n")
TRAILING = ("notes", "protocol", "seconds", "peak_mib", "state", "directory")

# Keys of the config that say where, how fast or how talkatively a run went, or that have a column of their own.
NOT_SETTINGS = (
    *("seed", "device", "data_dir", "cache_dir", "output_dir", "resume", "logger.", "task.data_dir", "task.download"),
    *("trainer.log_every", "trainer.checkpoint_every", "trainer.num_workers"),
)


class Spread(NamedTuple):
    """Mean and sample standard deviation (n - 1 in the denominator; None for one value) of `n` values."""

    mean: float
    deviation: float | None
    n: int

    def __str__(self) -> str:
        mean = format_number(self.mean)
        return mean if self.deviation is None else f"{mean} ± {format_number(self.deviation, digits=2)}"


def method_label(method: str, config: dict[str, Any]) -> str:
    """The method, and which of its kinds, as its section says: `ptq/block`."""
    section = section_in("method", config)
    variant = "" if section is None else section.variant(config)
    return f"{method}/{variant}" if variant else method


def comparison_rows(runs: Sequence[dict[str, Any]]) -> list[Row]:
    """One row per run of `read_run`: what ran (`SAME`), seed, its metrics, notes, seconds, peak_mib, state and
    directory.

    `settings` (dict, dotted key to value) holds the keys of the config in which the run differs from other runs of the
    same method, task, model, bits and protocol. Runs without results have no metrics.
    """
    rows = [_row(run) for run in runs]
    settings = [_settings(run["config"]) for run in runs]
    for group in grouped(range(len(rows)), key=lambda index: row_key(rows[index])).values():
        _, differing = split_common([settings[index] for index in group])
        for index, own in zip(group, differing, strict=True):
            rows[index]["settings"] = own
    return rows


def baseline_rows(runs: Sequence[dict[str, Any]], rows: Sequence[Row]) -> list[Row]:
    """More rows: of each run the baselines that its method wants beside it in tables (`row_baselines`), as what the
    same run gives without a part of it. `rows` are those of `runs`.
    """
    found = []
    for run, row in zip(runs, rows, strict=True):
        method, results = section_in("method", run["config"]), run["results"] or {}
        for name in method.row_baselines if method is not None else ():
            if metrics := (results.get("baseline") or {}).get(name):
                kept = {key: value for key, value in row.items() if key in (*LEADING, *TRAILING)}
                numbers = {key: value for key, value in metrics.items() if is_number(value)}
                found.append(kept | numbers | {"method": f"{row['method']}, {name}", "seconds": None, "peak_mib": None})
    return found


def aggregate(rows: Iterable[Row]) -> list[Row]:
    """One row per group of rows equal in `SAME`, with a `Spread` over seeds for every metric and cost, and all of their
    notes.

    Rows without metrics (unfinished runs) are left out. A seed counts once: of runs that repeat it, the first.
    """
    finished = [row for row in rows if metric_names([row])]
    result = []
    for group in grouped(finished, key=row_key).values():
        by_seed: dict[Any, Row] = {}
        for row in group:
            by_seed.setdefault(row["seed"], row)
        merged = {name: group[0][name] for name in SAME}
        merged |= {"seeds": ", ".join(str(seed) for seed in sorted(by_seed, key=str)), "n": len(by_seed)}
        merged["notes"] = "; ".join(dict.fromkeys(row["notes"] for row in by_seed.values() if row["notes"]))
        for name in [*metric_names(group), "seconds", "peak_mib"]:
            values = [row[name] for row in by_seed.values() if is_number(row.get(name))]
            if values:
                merged[name] = spread(values)
        result.append(merged)
    return result


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value; of values that are not all finite, both are NaN."""
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan if len(values) > 1 else None, len(values))
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


def metric_names(rows: Iterable[Row]) -> list[str]:
    """The metrics that any of `rows` has, in the order of their columns."""
    return column_order({name for row in rows for name in row} - {*LEADING, *TRAILING})


def to_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table, without columns that no row fills. What all protocols share stands once below the table."""
    common, _ = split_common([row["protocol"] for row in rows if row.get("protocol")])
    rows = [row | {"protocol": _without(row.get("protocol") or {}, common)} for row in rows]
    columns = [name for name in _columns(rows) if any(row.get(name) not in (None, "", {}) for row in rows)]
    lines = [_markdown_line([_title(name) for name in columns])]
    lines.append("|" + "|".join("---:" if _numeric(rows, name) else "---" for name in columns) + "|")
    lines += [_markdown_line([cell(row.get(name), row.get("n")) for name in columns]) for row in rows]
    if common:
        lines += ["", f"Protocol: {cell(common)}"]
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[Row], path: Path) -> Path:
    """The same columns in full precision; a `Spread` becomes two columns, the mean and `<name>_sd`."""
    table = []
    for row in rows:
        line = {}
        for name in _columns(rows):
            value = row.get(name)
            if isinstance(value, Spread):
                line |= {name: value.mean, f"{name}_sd": value.deviation}
            else:
                line[name] = cell(value) if isinstance(value, dict) else value
        table.append(line)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for line in table for name in line)))
        writer.writeheader()
        writer.writerows(table)
    return Path(path)


def split_common(mappings: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all `mappings` say alike, and what is left of each."""
    first = mappings[0] if mappings else {}
    common = {key: value for key, value in first.items() if all(other.get(key) == value for other in mappings)}
    return common, [_without(mapping, common) for mapping in mappings]


def _without(mapping: dict[str, Any], keys: Container[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


def _row(run: dict[str, Any]) -> Row:
    results = run["results"] or _planned(run["config"])
    cost = results.get("cost") or {}
    peak = cost.get("peak_memory_bytes")
    return {
        "method": method_label(results["method"], run["config"]),
        "settings": {},
        "task": results["task"],
        "model": results["model"],
        "bits": format_bits(results["bits"]),
        "seed": results.get("seed"),
        **{name: value for name, value in results["metrics"].items() if is_number(value)},
        "notes": "; ".join(results.get("notes") or []),
        "protocol": dict(flatten(results.get("protocol") or {})),
        "seconds": cost.get("seconds"),
        "peak_mib": peak / 2**20 if is_number(peak) else None,
        "state": run["state"],
        "directory": short_path(run["directory"]),
    }


def _planned(config: dict[str, Any]) -> dict[str, Any]:
    """What a run without results would have said of itself, from its config; "" where the config does not say."""
    flat = dict(flatten(config))
    bits = {part: flat.get(f"quantizer.{part}.bits", 32) for part in ("weight", "activation", "gradient")}
    names = {part: flat.get(f"{part}.name", "") for part in ("method", "task", "model")}
    return {**names, "seed": flat.get("seed"), "bits": bits, "metrics": {}}


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in flatten(config) if not key.startswith(NOT_SETTINGS)}
    method = section_in("method", config)
    told = [f"method.{key}" for key in method.variant_keys] if method is not None else []
    if method is not None and method.own_pretraining:
        told.append("model.pretrain.seed")
    return _without(settings, told)


def row_key(row: Row) -> str:
    """Equal for rows that may be averaged together: equal in `SAME`."""
    return repr([sorted(row[name].items()) if isinstance(row[name], dict) else row[name] for name in SAME])


def grouped(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    """Items with equal keys together, in order of first appearance."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _columns(rows: Sequence[Row]) -> list[str]:
    present = {name for row in rows for name in row}
    return [name for name in (*LEADING, *metric_names(rows), *TRAILING) if name in present]


def _numeric(rows: Sequence[Row], name: str) -> bool:
    return any(is_number(row.get(name)) or isinstance(row.get(name), Spread) for row in rows)


def _title(name: str) -> str:
    return {"peak_mib": "peak MiB"}.get(name, heading(name))


def cell(value: Any, n: int | None = None) -> str:
    """Text of one cell; a `Spread` over fewer values than the row's `n` says so."""
    if isinstance(value, Spread):
        return str(value) if n in (None, value.n) else f"{value} (n={value.n})"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return format_number(value) if value is None or is_number(value) else str(value)


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |"
