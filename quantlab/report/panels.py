"""A figure's panels: their size, the limits and ticks of their axes, their legend, and the PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantlab.report.axis_words import bounds_of
from quantlab.report.png import write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 5  # times what most values are below: further ones squeeze them
PANEL = (3.4, 2.6)  # inches
TITLE_SIZE = 9  # points
SMALL = 6.5  # points
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


def fit_axis(axes: "Axes", values: np.ndarray, key: str, whole: np.ndarray | None = None, largest: str = "") -> None:
    """No room for values that the quantity cannot have, no axis of noise around a constant, and no axis that a few
    values far above all others squeeze: those are cut off, and the largest is told. whole: values that are never cut
    off; largest: the name of what is.
    """
    values = values[np.isfinite(values)]
    if not values.size or axes.get_yscale() == "log":
        return
    axes.ticklabel_format(axis="y", useOffset=False)
    low, high = axes.get_ylim()
    least, most = bounds_of(key)
    if np.ptp(values) == 0:
        size = abs(float(values[0]))
        low, high = (values[0] - size / 2, values[0] + size / 2) if size else (0.0, min(most, 1.0))
    bulk = float(np.quantile(values, 0.95))
    if whole is not None and np.isfinite(whole).any():
        bulk = max(bulk, float(np.nanmax(whole)) / 1.4)
    if values.size >= 20 and least >= 0 and bulk > 0 and values.max() > FAR * bulk:
        high = 1.5 * bulk
        told = " ".join(filter(None, ("↑", largest, f"up to {values.max():.3g}")))
        axes.text(0.99, 0.99, told, transform=axes.transAxes, fontsize=SMALL, ha="right", va="top")
    low = max(low, least) if values.min() >= least else low
    high = min(high, most) if values.max() <= most else high
    room = 0.03 * (high - low)  # a line on the bound is seen beside the axis
    axes.set_ylim(low - room * (low == least), high + room * (high == most))
    ticks = [tick for tick in axes.get_yticks() if least <= tick <= most and low - room <= tick <= high + room]
    axes.set_yticks(ticks)


def log_where_positive(axes: "Axes", curves: Sequence[np.ndarray]) -> None:
    """A logarithmic y axis, unless a value is not above 0; under two decades its ticks are plain 1, 2, 5 numbers."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    if not values.size or values.min() <= 0 or values.min() == values.max():
        return
    axes.set_yscale("log")
    if values.max() < 100 * values.min():
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if np.log10(values.max() / values.min()) < 0.7:  # too narrow for 1, 2, 5
        axes.yaxis.set_major_locator(LogLocator(subs=range(1, 10)))


def step_axis(axes: "Axes") -> None:
    """Ticks at steps that there are: whole numbers, and few steps each by its own."""
    curves = [line for line in axes.lines if line.get_transform() is axes.transData]  # not one across the panel
    steps = np.unique(np.concatenate([np.empty(0), *(np.asarray(line.get_xdata(), float) for line in curves)]))
    if 0 < len(steps) <= 3:
        axes.set_xticks(steps, [f"{step:g}" for step in steps])
        axes.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("optimizer step")


def save_panels(figure: "Figure", panels: "Sequence[Axes]", path: Path) -> Path:
    """Write the PNG, with one legend above all panels; a lone panel has one where more than one curve has a label."""
    import matplotlib

    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    with matplotlib.rc_context(STYLE):
        alone = len(panels) == 1
        if len(handles) > alone:
            entry = LETTER * max(map(len, handles)) + LEGEND_KEY
            columns = max(1, min(len(handles), int(figure.get_figwidth() / entry)))
            lines = -(-len(handles) // columns)
            figure.set_figheight(figure.get_figheight() + LEGEND_LINE * (lines - (not alone)))
            figure.legend(handles.values(), handles, loc="outside upper center", ncols=columns)
        return write_png(path, figure.savefig)
