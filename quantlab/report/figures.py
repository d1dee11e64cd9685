"""Curves: training, and errors along denoising. Plain data in, a PNG out, its path returned.

Colours and lines: `curve_styles`; what axes say: `axis_words`; sizes, limits and the file: `panels`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantlab.config.sections import of_group
from quantlab.report.axis_words import words_of
from quantlab.report.curve_styles import ONE_RUN, line_styles
from quantlab.report.metrics import is_number
from quantlab.report.panels import SMALL, TITLE_SIZE, fit_axis, log_where_positive, new_panels, save_panels, step_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = Mapping[str, Any]  # figures/denoising.json: timesteps, group_size, curves

TARGET_COLOR = "#D55E00"
UNDRAWN = ("step", "learning_rate")  # of metrics.jsonl: known before the run, as what methods say is `undrawn`
MOST_NAMED_PHASES = 4
ROOM_FOR_NAME = 0.12  # of a panel's height: of two names that are nearer than this, one stands below its curve
MARKED_STEPS = 30  # with more steps than this, markers run into each other


def training_curves(rows: Sequence[Mapping[str, Any]], path: Path, phases: Mapping[int, str] | None = None) -> Path:
    """One small panel per measured key of the rows of metrics.jsonl, against their `step`. phases: what begins after
    which step.
    """
    return compared_training_curves({"": rows}, path, phases)


def compared_training_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, phases: Mapping[int, str] | None = None
) -> Path:
    """`training_curves` of several runs, by their labels, on the same panels.

    Where a curve has more than 40 points, the points are drawn faint under their running mean.
    """
    styles = line_styles(runs)
    undrawn = {*UNDRAWN, *(key for method in of_group("method") for key in method.undrawn)}
    keys = list(dict.fromkeys(key for rows in runs.values() for row in rows for key in row if key not in undrawn))
    curves = {key: {label: _curve(runs[label], key) for label in styles} for key in keys}
    curves = {key: lines for key, lines in curves.items() if any(len(steps) for steps, _ in lines.values())}
    figure, panels = new_panels(max(len(curves), 1), columns=2 if len(curves) == 4 else 3)
    for axes, (key, lines) in zip(panels, curves.items(), strict=False):
        for label, (steps, values) in lines.items():
            _draw_noisy(axes, steps, values, styles[label], label)
        drawn = np.concatenate([values for _, values in lines.values()])
        if "loss" in key:
            log_where_positive(axes, [drawn])
        fit_axis(axes, drawn, key)
        axes.set_ylabel(words_of(key))
        step_axis(axes)
        _mark_phases(axes, phases or {})
    return save_panels(figure, panels, path)


def denoising_error(series: Series, path: Path) -> Path:
    """Two panels against the denoising step, noise to image: the error of each step alone, and the accumulated error.

    The error is the mean squared error per pixel to full precision, on images in [-1, 1]. Faint vertical lines are the
    boundaries of the groups. Both panels share one axis, so that what accumulates is what lies between them.
    """
    figure, panels = new_panels(2, columns=2, sharey=True)
    titles = {"step_error": "error of each step alone", "accumulated_error": "accumulated error"}
    styles = line_styles(series["curves"])
    total = len(series["timesteps"])
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for label, style in styles.items():
            values = _floats(series["curves"][label][key])
            axes.plot(np.arange(1, total + 1), values, label=_said(label), **_marked(style, total))
        _denoising_axis(axes, series)
        axes.set_title(title, fontsize=TITLE_SIZE)
    log_where_positive(panels[0], [_floats(curve[key]) for curve in series["curves"].values() for key in titles])
    panels[0].set_ylabel("MSE to full precision\nper pixel (image range −1 to 1)")
    return save_panels(figure, panels, path)


def fid_along_denoising(series: Series, path: Path) -> Path:
    """FID of the quantized model's states to the full-precision model's, at the steps at which it was measured."""
    figure, panels = new_panels(1, columns=1, scale=1.2)
    for label, style in line_styles(series["curves"]).items():
        fid = series["curves"][label].get("fid_to_fp32")
        if fid:
            axes = panels[0]
            axes.plot(fid["step"], _floats(fid["value"]), label=_said(label), **_marked(style, len(fid["step"])))
    _denoising_axis(panels[0], series)
    panels[0].set_ylabel("FID to full precision")
    panels[0].set_ylim(bottom=0)
    return save_panels(figure, panels, path)


def _said(label: str) -> str:
    """A curve's label in words."""
    return next((method.row_baselines[label] for method in of_group("method") if label in method.row_baselines), label)


def _denoising_axis(axes: "Axes", series: Series) -> None:
    total = len(series["timesteps"])
    group_size = series.get("group_size")
    for boundary in range(group_size, total, group_size) if group_size else ():
        axes.axvline(boundary + 0.5, color="#DDDDDD", linewidth=0.8, zorder=0)
    axes.set_xlim(0.5, total + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("denoising step (noise → image)")


def _mark_phases(axes: "Axes", phases: Mapping[int, str]) -> None:
    for start, name in phases.items():
        axes.axvline(start + 0.5, color="#BBBBBB", linewidth=0.8, linestyle="--", zorder=0)
        if name and len(phases) <= MOST_NAMED_PHASES:
            axes.text(
                start + 0.5,
                1.0,
                f" {name} →",
                transform=axes.get_xaxis_transform(),
                fontsize=SMALL,
                color="#666666",
                va="top",
            )


def _marked(style: dict[str, Any], points: int) -> dict[str, Any]:
    return style | {"markersize": 3.5, "marker": style["marker"] if points <= MARKED_STEPS else ""}


def _curve(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (int) and values (float) of the rows in which `key` is a number."""
    points = [(row["step"], row[key]) for row in rows if is_number(row.get(key)) and is_number(row.get("step"))]
    return np.array([step for step, _ in points]), _floats([value for _, value in points])


def draw_curve(axes: "Axes", rows: Sequence[Mapping[str, Any]], key: str, **style: Any) -> None:
    """One key of the rows of metrics.jsonl against `step`, as it is."""
    steps, values = _curve(rows, key)
    style = {"marker": "o", "markersize": 4} | style if len(steps) == 1 else style
    axes.plot(steps, values, linewidth=1.6, **style)


def draw_layers(axes: "Axes", rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """Each layer's own values, `layers/KEY` of the rows of metrics.jsonl, as faint lines from light (first layer)
    to dark (last). Layers that end far from the others are named.
    """
    drawn = [row for row in rows if isinstance(row.get(f"layers/{key}"), dict)]
    names = list(drawn[0][f"layers/{key}"]) if drawn else []
    curves = {name: _floats([row[f"layers/{key}"].get(name) for row in drawn]) for name in names}
    steps = [row["step"] for row in drawn]
    for depth, values in enumerate(curves.values()):
        grey = str(0.8 - 0.6 * depth / max(len(names) - 1, 1))
        marker = "." if len(steps) == 1 else ""
        axes.plot(steps, values, color=grey, linewidth=0.5, alpha=0.6, marker=marker)
    axes.plot([], [], color="0.5", linewidth=0.8, label="each layer, the first lightest")
    everything = np.concatenate([np.zeros(1), *curves.values()])
    span = float(np.ptp(everything[np.isfinite(everything)]))
    side = "right" if len(steps) > 1 else "left"  # of a single point the left is where the axis has its numbers
    last = {name: values[-1] for name, values in curves.items()}
    above = None
    for name in sorted(outlying(last, span), key=lambda name: -last[name]):
        crowded = above is not None and above - last[name] < ROOM_FOR_NAME * span
        axes.annotate(name, (steps[-1], last[name]), xytext=(0, -2 if crowded else 2), textcoords="offset points",
                      fontsize=SMALL, ha=side, va="top" if crowded else "bottom", color="#444444",
                      annotation_clip=True)  # fmt: skip
        above = last[name]


def outlying(values: Mapping[str, float], span: float, most: int = 2) -> list[str]:
    """The names, up to `most`, whose values lie far from the others: from the median by more than five times the median
    distance from it, and by more than a quarter of `span`, which all that is drawn covers.
    """
    finite = {name: value for name, value in values.items() if np.isfinite(value)}
    if len(finite) < 5:
        return []
    numbers = np.array(list(finite.values()))
    middle = float(np.median(numbers))
    distance = max(5 * float(np.median(np.abs(numbers - middle))), span / 4)
    far = sorted(finite, key=lambda name: -abs(finite[name] - middle))
    return [name for name in far[:most] if abs(finite[name] - middle) > distance > 0]


def _largest_layer(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """The layer with the largest value of `layers/KEY`; "" without any."""
    layers = [row[f"layers/{key}"] for row in rows if isinstance(row.get(f"layers/{key}"), dict)]
    found = [(value, name) for own in layers for name, value in own.items() if is_number(value) and np.isfinite(value)]
    return max(found)[1] if found else ""


def _distinct_layers(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[list[int], tuple[float, ...]]]:
    """Steps and values of `layers/KEY`, once for layers whose values are the same throughout."""
    drawn = [row for row in rows if isinstance(row.get(f"layers/{key}"), dict)]
    curves = dict.fromkeys(
        tuple(row[f"layers/{key}"].get(name) for row in drawn) for name in (drawn[0][f"layers/{key}"] if drawn else ())
    )
    return [([row["step"] for row in drawn], curve) for curve in curves]


def layer_curves(
    rows: Sequence[Mapping[str, Any]],
    panels: Mapping[str, str],
    targets: Mapping[str, tuple[str, str]],
    path: Path,
    columns: int,
) -> Path:
    """One panel per quantity of metrics.jsonl that was logged, over training: the mean over layers on top of each
    layer, from 0.

    panels: title by key. targets: by key of a panel the key that is its target, and the target's label; drawn where it
    was logged, and where layers have targets of their own, one line for each that there is.
    """
    found = {key: title for key, title in panels.items() if any(is_number(row.get(key)) for row in rows)}
    figure, axes_of = new_panels(max(len(found), 1), columns)
    for axes, (key, title) in zip(axes_of, found.items(), strict=False):
        draw_layers(axes, rows, key)
        draw_curve(axes, rows, key, color=ONE_RUN.color, label="mean over layers")
        target, label = targets.get(key, ("", ""))
        own = _distinct_layers(rows, target)
        for steps, values in own:
            axes.plot(steps, values, color=TARGET_COLOR, linewidth=0.8, linestyle=":", label=f"{label} of each layer")
        label = f"{label}, mean over layers" if own else label
        if any(is_number(row.get(target)) for row in rows):
            draw_curve(axes, rows, target, color=TARGET_COLOR, label=label, linestyle="--")
        own_values = [value for line in axes.lines for value in np.asarray(line.get_ydata(), dtype=float)]
        axes.set_ylim(bottom=0)
        means = np.concatenate([_curve(rows, one)[1] for one in (key, target)])
        fit_axis(axes, np.array(own_values), key, means, _largest_layer(rows, key))
        axes.set_ylabel(title)
        step_axis(axes)
    return save_panels(figure, axes_of, path)


def _draw_noisy(axes: "Axes", steps: np.ndarray, values: np.ndarray, style: dict[str, Any], label: str) -> None:
    style = style | {"marker": "o" if len(steps) == 1 else "", "markersize": 4}
    if len(steps) <= 40:
        axes.plot(steps, values, label=label, **style)
        return
    width = 2 * (len(steps) // 40) + 1
    window = np.ones(width)
    mean = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
    axes.plot(steps, values, color=style["color"], linewidth=0.6, alpha=0.35)
    axes.plot(steps, mean, label=label, **style)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    """float64 array; None (a non-finite number in JSON) becomes NaN, which leaves a gap."""
    return np.array(values, dtype=np.float64)
