"""The curves of many runs on one figure: what may stand together, means over seeds, and what each curve is called."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from quantlab.report.figures import Series
from quantlab.report.labels import short_labels
from quantlab.report.metrics import is_number
from quantlab.report.table import Row, grouped
from quantlab.run.directory import CURVES


def denoising_overlays(runs: Sequence[tuple[Row, Series]]) -> dict[str, Series]:
    """Series for `figures.denoising_error`, by a name for files: one per task, model, bits, protocol and timesteps.

    Curves of one name are averaged over seeds. Where runs of one seed disagree on a curve, because their settings
    differ, the name carries the settings and each setting keeps its own curve.
    """

    def comparable(run: tuple[Row, Series]) -> str:
        row, series = run
        return repr([_place(row), row["protocol"], series["timesteps"]])

    overlays: dict[str, Series] = {}
    for group in grouped(runs, key=comparable).values():
        sizes = {series.get("group_size") for _, series in group}
        name = _place(group[0][0])
        overlays[_free(name, overlays)] = {
            "timesteps": group[0][1]["timesteps"],
            "group_size": sizes.pop() if len(sizes) == 1 else None,
            "curves": _merged_curves(group),
        }
    return overlays


def training_overlays(runs: Sequence[tuple[Row, list[dict[str, Any]]]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Rows by label for `figures.compared_training_curves`: one dict per task and protocol.

    A curve is the mean over seeds of one configuration and one length: of runs of which one was longer, each length
    has its own.
    """
    overlays: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for group in grouped(runs, key=lambda run: repr([run[0]["task"], run[0]["protocol"]])).values():
        labels = curve_labels([row for row, _ in group], [_length(rows) for _, rows in group])
        by_label = grouped(zip(labels, group), key=lambda item: item[0])
        curves = {label: _mean_rows([rows for _, (_, rows) in items]) for label, items in by_label.items()}
        overlays[_free(group[0][0]["task"], overlays)] = curves
    return overlays


def curve_labels(rows: Sequence[Row], lengths: Sequence[int | None]) -> list[str]:
    """Of runs of one task and protocol: equal for runs that differ in nothing but the seed."""
    facts = [
        {"bits": row["bits"], "model": row["model"], **row["settings"], "length": f"{length} steps"}
        for row, length in zip(rows, lengths)
    ]
    return short_labels([row["method"] for row in rows], facts)


def _length(rows: Sequence[dict[str, Any]]) -> int | None:
    """The last step of a run."""
    return max((row["step"] for row in rows), default=None)


def _mean_rows(runs: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl of several runs, averaged step by step and key by key over the runs that have a number."""
    values: dict[Any, dict[str, list[float]]] = {}
    for row in (row for rows in runs for row in rows):
        at_step = values.setdefault(row.get("step"), {})
        for key, value in row.items():
            if key != "step" and is_number(value):
                at_step.setdefault(key, []).append(value)
    return [{"step": step, **{key: fmean(numbers) for key, numbers in keys.items()}} for step, keys in values.items()]


def _merged_curves(group: Sequence[tuple[Row, Series]]) -> dict[str, dict[str, Any]]:
    curves = [(name, row, curve) for row, series in group for name, curve in series["curves"].items()]
    merged = {}
    for name in dict.fromkeys(name for name, _, _ in curves):
        same = [(row, curve) for other, row, curve in curves if other == name]
        by_seed = grouped(same, key=lambda item: repr(item[0]["seed"])).values()
        agree = all(item[1] == seed[0][1] for seed in by_seed for item in seed)
        facts = [{} if agree else {"method": row["method"], **row["settings"]} for row, _ in same]
        labels = short_labels([name] * len(same), facts)
        for label, items in grouped(zip(labels, same), key=lambda item: item[0]).items():
            firsts = [seed[0][1][1] for seed in grouped(items, key=lambda item: repr(item[1][0]["seed"])).values()]
            merged[label] = _mean_curve(firsts)
    return merged


def _mean_curve(curves: Sequence[dict[str, Any]]) -> dict[str, Any]:
    mean: dict[str, Any] = {key: _mean([curve[key] for curve in curves]) for key in CURVES}
    fids = [curve.get("fid_to_fp32") for curve in curves]
    if all(fids) and all(fid["step"] == fids[0]["step"] for fid in fids):
        mean["fid_to_fp32"] = {"step": fids[0]["step"], "value": _mean([fid["value"] for fid in fids])}
    return mean


def _mean(lists: Sequence[Sequence[float | None]]) -> list[float]:
    """Element by element; NaN where any is None."""
    return np.array(lists, dtype=np.float64).mean(axis=0).tolist()


def _place(row: Row) -> str:
    return f"{row['task']}_{row['model']}_{row['bits']}"


def _free(name: str, taken: dict[str, Any]) -> str:
    """`name`, or `name_2`, `name_3`, ... where runs of one place differ in protocol or timesteps."""
    numbered = [name, *(f"{name}_{number}" for number in range(2, len(taken) + 2))]
    return next(candidate for candidate in numbered if candidate not in taken)
