"""The figure of a table whose columns are the numbers of a curve: each row's mean over them, with a band."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantlab.report.axis_words import words_of
from quantlab.report.curve_styles import line_styles
from quantlab.report.measured_table import Measured, label
from quantlab.report.metrics import METRICS
from quantlab.report.paired import Comparison
from quantlab.report.panels import LETTER, PANEL, log_where_positive, new_panels, save_panels
from quantlab.report.table import Spread
from quantlab.report.table_definition import ALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def table_curves(measured: Measured, path: Path) -> Path:
    """A column of panels for each metric: above, the rows (mean and one standard deviation over seeds); below, where
    rows are compared, the differences seed by seed: zero is the row that is compared with.
    """
    comparisons, metrics = measured.comparisons(), measured.metrics
    figure, panels = new_panels((2 if comparisons else 1) * len(metrics), columns=len(metrics))
    for axes, metric in zip(panels, metrics, strict=False):
        _draw_rows(axes, measured, metric)
    for axes, metric in zip(panels[len(metrics) :], metrics, strict=False):
        _draw_differences(axes, measured, [one for one in comparisons if one.metric == metric])
        is_ratio = any(one.is_ratio for one in comparisons if one.metric == metric)
        words = words_of(metric).replace("(%)", "(points)")
        axes.set_ylabel(f"{'natural log of ratio' if is_ratio else 'difference'} of\n{words}")
    return save_panels(figure, panels, path)


def _draw_rows(axes: "Axes", measured: Measured, metric: str) -> None:
    names = {row: label(measured.table, row) for row in measured.rows}
    styles = line_styles(names.values())
    for row, name in names.items():
        cells = [(column, measured.spread(row, column, metric)) for column in measured.columns if column != ALL]
        if (level := measured.spread(row, ALL, metric)) is not None:
            color, deviation = styles[name]["color"], level.deviation or 0.0
            axes.axhline(level.mean, label=name, color=color, linestyle="--")
            axes.axhspan(level.mean - deviation, level.mean + deviation, color=color, alpha=0.15, linewidth=0)
        else:
            _band(axes, [(column, found) for column, found in cells if found is not None], name, styles[name])
    axes.set_ylabel(words_of(metric))
    if METRICS[metric].better == "↓":
        log_where_positive(axes, [np.array([seed for one in _values(measured, metric) for seed in one.values()])])
    _x_axis(axes, measured)


def _draw_differences(axes: "Axes", measured: Measured, comparisons: Sequence[Comparison]) -> None:
    pairs = {
        (one.row, one.other): f"{label(measured.table, one.row)} − {label(measured.table, one.other)}"
        for one in comparisons
    }
    for (row, other), name in pairs.items():
        style = line_styles([label(measured.table, other)])[label(measured.table, other)]
        pair = [one for one in comparisons if (one.row, one.other) == (row, other) and one.column != ALL]
        cells = [(one.column, one.difference) for one in pair]
        _band(axes, cells, name, style | {"linestyle": "-.", "linewidth": 1.0})
    axes.axhline(0, color="#888888", linewidth=0.8)
    _x_axis(axes, measured)


def _band(axes: "Axes", cells: Sequence[tuple[str, Spread]], name: str, style: dict[str, Any]) -> None:
    x, means = [float(column) for column, _ in cells], [found.mean for _, found in cells]
    deviations = [found.deviation or 0.0 for _, found in cells]
    axes.plot(x, means, label=name, **(style | {"marker": "o", "markersize": 3.5}))
    low, high = np.subtract(means, deviations), np.add(means, deviations)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _values(measured: Measured, metric: str) -> list[dict[int, float]]:
    """Of every cell, by seed."""
    return [seeds for (_, _, name), seeds in measured.values.items() if name == metric]


def _x_axis(axes: "Axes", measured: Measured) -> None:
    if measured.table.log_x:
        axes.set_xscale("log")
    numbers = [float(column) for column in measured.columns if column != ALL]
    names = [f"{number:g}" for number in numbers]
    crowded = LETTER * sum(len(name) + 1 for name in names) > PANEL[0]
    axes.set_xticks(numbers, names, rotation=45 * crowded, ha="right" if crowded else "center", rotation_mode="anchor")
    axes.minorticks_off()
    axes.set_xlabel(measured.table.x)
