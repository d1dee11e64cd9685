"""What is compared: one row a run, and means over seeds.

Numbers are averaged only over runs that differ in nothing but the seed. In particular an FID over 64 samples and one
over 1024, or two with different feature networks, are different quantities: the protocol is part of what groups rows.
"""

import math
import statistics
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, NamedTuple

from quantlab.config.sections import section_in
from quantlab.report.metrics import column_order, format_bits, format_number, is_number
from quantlab.report.runs import flatten, short_path

Row = dict[str, Any]

SAME = ("baseline", "method", "settings", "task", "model", "bits", "protocol")  # what rows averaged together share
LEADING = ("method", "model", "bits", "settings", "seed", "seeds", "n")
TRAILING = ("seconds", "peak_mib", "notes", "state", "error", "directory")
HIDDEN = ("baseline", "task", "protocol", "configuration", "members")  # of a row, and no column of tables
NO_METRIC = frozenset((*LEADING, *TRAILING, *HIDDEN))

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
    """One row per run of `read_run`: what ran (`SAME`), seed, its metrics, notes, seconds, peak_mib, state, error and
    directory.

    `settings` (dict, dotted key to value) holds the keys of the config in which the run differs from other runs of the
    same method, task, model, bits and protocol; `configuration` all keys. Runs without results have no metrics.
    """
    rows = [_row(run) for run in runs]
    settings = [settings_of(run["config"]) for run in runs]
    for group in grouped(range(len(rows)), key=lambda index: row_key(rows[index])).values():
        _, differing = split_common([settings[index] for index in group])
        for index, own in zip(group, differing, strict=True):
            rows[index]["settings"] = own
    return rows


def aggregate(rows: Iterable[Row], by: Sequence[str] = SAME) -> list[Row]:
    """One row per group of rows equal in `by`, with a `Spread` over seeds for every metric and cost, and all of their
    notes; `members` holds the group's rows.

    by: names that `value_of` knows. Of a group by anything but `SAME`, every run counts; otherwise a seed counts once:
    of runs that repeat it, the first. Rows without metrics (unfinished runs) are left out.
    """
    finished = [row for row in rows if metric_names([row])]
    result = []
    for group in grouped(finished, key=lambda row: row_key(row, by)).values():
        members = list({row["seed"]: row for row in reversed(group)}.values())[::-1] if by == SAME else group
        merged = {name: same(value_of(row, name) for row in members) for name in (*SAME, *by)}
        seeds = sorted({row["seed"] for row in members} - {None}, key=lambda seed: (str(type(seed)), seed))
        merged |= {"seeds": ", ".join(map(str, seeds)), "n": len(members), "members": members}
        merged["notes"] = "; ".join(dict.fromkeys(row["notes"] for row in members if row["notes"]))
        for name in [*metric_names(group), "seconds", "peak_mib"]:
            values = [row[name] for row in members if is_number(row.get(name))]
            if values:
                merged[name] = spread(values)
        result.append(merged)
    return result


def repeated(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Finished runs that `aggregate` leaves out, since an equal run before them has their seed; each with that one."""
    first: dict[str, Row] = {}
    pairs = [
        (row, first.setdefault(row_key(row, (*SAME, "seed")), row))
        for row in rows
        if metric_names([row]) and not row["baseline"]
    ]
    return [(row, other) for row, other in pairs if row is not other]


def value_of(row: Row, name: str) -> Any:
    """What a row has under the name of a column, or its run under a key of the config; of a mean over several runs,
    what they share, or else all of it as text; None where there is nothing.
    """
    if name in row:
        return row[name]
    if "members" in row:
        return same(value_of(member, name) for member in row["members"])
    found = row["settings"].get(name) if isinstance(row["settings"], dict) else None
    return row.get("configuration", {}).get(name) if found is None else found


def same(values: Iterable[Any]) -> Any:
    """The one value that all are equal to, or the texts of all."""
    distinct = {repr(value): value for value in values}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    return ", ".join(dict.fromkeys(cell(value) for value in distinct.values()))


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value; of values that are not all finite, both are NaN."""
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan if len(values) > 1 else None, len(values))
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


def metric_names(rows: Iterable[Row]) -> list[str]:
    """The metrics that any of `rows` has, in the order of their columns."""
    return column_order({name for row in rows for name in row if name not in NO_METRIC and "." not in name})


def metrics_of(metrics: Any) -> dict[str, float]:
    """The numbers among what a results.json calls metrics, without those that have the name of something else."""
    numbers = metrics.items() if isinstance(metrics, dict) else ()
    return {name: value for name, value in numbers if is_number(value) and name not in NO_METRIC}


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
        "baseline": "",
        "method": method_label(results["method"], run["config"]),
        "settings": {},
        "configuration": dict(flatten(run["config"])),
        "task": results["task"],
        "model": results["model"],
        "bits": format_bits(results["bits"]) if run["results"] or "quantizer" in run["config"] else "",
        "seed": seed if isinstance(seed := results.get("seed"), (int, float, str)) else None,
        **metrics_of(results["metrics"]),
        "notes": "; ".join(map(str, results.get("notes") or [])),
        "protocol": dict(flatten(results.get("protocol") or {})),
        "seconds": cost.get("seconds"),
        "peak_mib": peak / 2**20 if is_number(peak) else None,
        "state": run["state"],
        "error": run["error"],
        "directory": short_path(run["directory"]),
    }


def _planned(config: dict[str, Any]) -> dict[str, Any]:
    """What a run without results would have said of itself, from its config; "" where the config does not say."""
    flat = dict(flatten(config))
    bits = {part: flat.get(f"quantizer.{part}.bits", 32) for part in ("weight", "activation", "gradient")}
    names = {part: flat.get(f"{part}.name", "") for part in ("method", "task", "model")}
    return {**names, "seed": flat.get("seed"), "bits": bits, "metrics": {}}


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a config that say what was done, by dotted key, without those that the method's label tells."""
    settings = {key: value for key, value in flatten(config) if not key.startswith(NOT_SETTINGS)}
    method = section_in("method", config)
    told = [f"method.{key}" for key in method.variant_keys] if method is not None else []
    if method is not None and method.own_pretraining:
        told.append("model.pretrain.seed")
    return _without(settings, told)


def row_key(row: Row, by: Sequence[str] = SAME) -> str:
    """Equal for rows that are equal in all of `by`; a baseline is never equal to a run."""
    values = [row["baseline"], *(value_of(row, name) for name in by)]
    return repr([sorted(value.items(), key=repr) if isinstance(value, dict) else value for value in values])


def grouped(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    """Items with equal keys together, in order of first appearance."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def cell(value: Any, n: int | None = None) -> str:
    """Text of one cell; a `Spread` over fewer values than the row's `n` says so."""
    if isinstance(value, Spread):
        return str(value) if n in (None, value.n) else f"{value} (n={value.n})"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return format_number(value) if value is None or is_number(value) else str(value)
