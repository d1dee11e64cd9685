"""Curves: training, and errors along denoising. Plain data in, a PNG out, its path returned.

Colours are Okabe and Ito's, which colour-blind readers tell apart. Methods keep their colour, line and place in every
figure.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantlab.config.methods.base import Curve
from quantlab.config.sections import of_group
from quantlab.report.metrics import is_number
from quantlab.report.png import write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = Mapping[str, Any]  # figures/denoising.json: timesteps, group_size, curves

ONE_RUN = Curve(("",), "#0072B2")  # the only run of a figure
TARGET_COLOR = "#D55E00"
OTHER_COLORS = ("#CC79A7", "#56B4E9", "#E69F00", "#0072B2", "#009E73", "#000000")
OTHER_LINES = ("-", "-.", ":")
OTHER_WIDTH = 1.4
UNDRAWN = ("step", "learning_rate")  # of metrics.jsonl: known before the run, as what methods say is `undrawn`
MARKED_STEPS = 30  # with more steps than this, markers run into each other

PANEL = (3.4, 2.6)  # inches
TITLE_SIZE = 9  # points
LETTER = 0.075  # inches: a generous mean width of a letter of the legend
LEGEND_LINE = 0.19  # inches: height of one line of it
LEGEND_KEY = 0.6  # inches: its line and the gaps around
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "savefig.dpi": 200,
}


def training_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """One small panel per measured key of the rows of metrics.jsonl, against their `step`."""
    return compared_training_curves({"": rows}, path)


def compared_training_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> Path:
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
        if "loss" in key:
            _log_where_positive(axes, [values for _, values in lines.values()])
        axes.set_title(key.replace("_", " "), fontsize=TITLE_SIZE)
        axes.set_xlabel("optimizer step")
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
            axes.plot(np.arange(1, total + 1), values, label=label, **_marked(style, total))
        _denoising_axis(axes, series)
        axes.set_title(title, fontsize=TITLE_SIZE)
    _log_where_positive(panels[0], [_floats(curve[key]) for curve in series["curves"].values() for key in titles])
    panels[0].set_ylabel("MSE to full precision\nper pixel (image range −1 to 1)")
    return save_panels(figure, panels, path)


def fid_along_denoising(series: Series, path: Path) -> Path:
    """FID of the quantized model's states to the full-precision model's, at the steps at which it was measured."""
    figure, panels = new_panels(1, columns=1, scale=1.2)
    for label, style in line_styles(series["curves"]).items():
        fid = series["curves"][label].get("fid_to_fp32")
        if fid:
            panels[0].plot(fid["step"], _floats(fid["value"]), label=label, **_marked(style, len(fid["step"])))
    _denoising_axis(panels[0], series)
    panels[0].set_ylabel("FID to full precision")
    panels[0].set_ylim(bottom=0)
    return save_panels(figure, panels, path)


def _denoising_axis(axes: "Axes", series: Series) -> None:
    total = len(series["timesteps"])
    group_size = series.get("group_size")
    for boundary in range(group_size, total, group_size) if group_size else ():
        axes.axvline(boundary + 0.5, color="#DDDDDD", linewidth=0.8, zorder=0)
    axes.set_xlim(0.5, total + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("denoising step (noise → image)")


def _log_where_positive(axes: "Axes", curves: Sequence[np.ndarray]) -> None:
    """A logarithmic y axis, unless a value is not above 0; under two decades its ticks are plain 1, 2, 5 numbers."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    if not values.size or values.min() <= 0:
        return
    axes.set_yscale("log")
    if values.max() < 100 * values.min():
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def named_curves() -> list[Curve]:
    """Curves that look the same in every figure, in the order of drawing and of the legend."""
    curves = [ONE_RUN, *(curve for method in of_group("method") for curve in method.curves)]
    return sorted(curves, key=lambda curve: curve.linewidth)


def line_styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Labels in the order of drawing, each with its line: the named, and others before those that are thicker."""
    named = named_curves()
    places = {label: place for place, curve in enumerate(named) for label in curve.labels}
    others_place = sum(curve.linewidth <= OTHER_WIDTH for curve in named) - 0.5

    def place_of(label: str) -> float:
        return places.get(label.split(" (")[0], others_place)

    styles, others = {}, 0
    taken = set()
    for label in sorted(dict.fromkeys(labels), key=lambda label: (place_of(label), "(" in label)):
        place = place_of(label)
        if place != others_place and place not in taken:
            styles[label] = {key: value for key, value in named[int(place)]._asdict().items() if key != "labels"}
            taken.add(place)
        else:
            color = OTHER_COLORS[others % len(OTHER_COLORS)]
            line = OTHER_LINES[others // len(OTHER_COLORS) % len(OTHER_LINES)]
            styles[label] = {"color": color, "linestyle": line, "linewidth": OTHER_WIDTH, "marker": "D"}
            others += 1
    return styles


def _marked(style: dict[str, Any], points: int) -> dict[str, Any]:
    return style | {"markersize": 3.5, "marker": style["marker"] if points <= MARKED_STEPS else ""}


def _curve(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (int) and values (float) of the rows in which `key` is a number."""
    points = [(row["step"], row[key]) for row in rows if is_number(row.get(key)) and is_number(row.get("step"))]
    return np.array([step for step, _ in points]), _floats([value for _, value in points])


def draw_curve(axes: "Axes", rows: Sequence[Mapping[str, Any]], key: str, **style: Any) -> None:
    """One key of the rows of metrics.jsonl against `step`, as it is."""
    steps, values = _curve(rows, key)
    axes.plot(steps, values, linewidth=1.6, **style)


def draw_layers(axes: "Axes", rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """Each layer's own values, `layers/KEY` of the rows of metrics.jsonl, as faint lines from light (first layer)
    to dark (last).
    """
    drawn = [row for row in rows if isinstance(row.get(f"layers/{key}"), dict)]
    names = list(drawn[0][f"layers/{key}"]) if drawn else []
    for depth, name in enumerate(names):
        axes.plot(
            [row["step"] for row in drawn],
            [row[f"layers/{key}"].get(name) for row in drawn],
            color=str(0.8 - 0.6 * depth / max(len(names) - 1, 1)),
            linewidth=0.5,
            alpha=0.6,
        )
    axes.plot([], [], color="0.5", linewidth=0.8, label="each layer, the first lightest")


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
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=TITLE_SIZE)
        axes.set_xlabel("optimizer step")
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


def new_panels(count: int, columns: int, scale: float = 1.0, sharey: bool = False) -> "tuple[Figure, list[Axes]]":
    """A figure with `count` panels, `columns` to a row."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PANEL[0] * columns * scale, PANEL[1] * rows * scale), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=sharey, squeeze=False).flatten().tolist()
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def save_panels(figure: "Figure", panels: "Sequence[Axes]", path: Path) -> Path:
    """Write the PNG, with one legend for all panels where more than one labelled curve is drawn."""
    import matplotlib

    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    with matplotlib.rc_context(STYLE):
        if len(handles) > 1 and len(panels) > 1:
            entry = LETTER * max(map(len, handles)) + LEGEND_KEY
            columns = max(1, min(len(handles), int(figure.get_figwidth() / entry)))
            lines = -(-len(handles) // columns)
            figure.set_figheight(figure.get_figheight() + LEGEND_LINE * (lines - 1))
            figure.legend(handles.values(), handles, loc="outside upper center", ncols=columns)
        elif len(handles) > 1:
            panels[0].legend()
        return write_png(path, figure.savefig)
