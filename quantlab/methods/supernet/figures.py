"""Pictures of a supernet: its ranking, the fairness and the noise of its training, and the subnet found. Imports no
torch.

Okabe and Ito's colours; an operation keeps its colour in every figure.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantlab.report.curve_styles import OTHER_COLORS
from quantlab.report.figures import draw_curve
from quantlab.report.metrics import is_number
from quantlab.report.panels import TITLE_SIZE, new_panels, save_panels, step_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAIRNESS = {  # by key of metrics.jsonl: label, colour, marker
    "validation_loss_low": ("low complexity", "#56B4E9", "v"),
    "validation_loss_middle": ("middle complexity", "#009E73", "o"),
    "validation_loss_high": ("high complexity", "#D55E00", "^"),
}
NOISE = "momentum_cosine"
MEAN, POINTS = "#0072B2", "#56B4E9"
OPERATION_COLORS = {
    "skip_connect": "#56B4E9",
    "nor_conv_1x1": "#009E73",
    "nor_conv_3x3": "#D55E00",
    "avg_pool_3x3": "#CC79A7",
    # A hue for each kernel, the larger expansion darker
    "3x3_e3": "#56B4E9",
    "3x3_e6": "#0072B2",
    "5x5_e3": "#7FD0B8",
    "5x5_e6": "#009E73",
    "7x7_e3": "#E69F00",
    "7x7_e6": "#D55E00",
}
FAINT, FAINT_COLOR, FAINT_WORDS = ("none", "identity"), "#C8C8C8", "#909090"  # operations that compute nothing

MANY = 100  # points: with more, they are small and translucent
# times: the whole range of accuracies over that of the better half, from which on that half is drawn again
ZOOM = 3
LOG_RANGE = 5  # complexities further apart than this have a logarithmic colour scale
NODE = 0.17  # radius, where neighbouring nodes are 1 apart
RISE = {1: 0.0, 2: 0.52, 3: 1.0}  # how far an edge leaves the line of nodes, by how many nodes it spans
INCHES = 1.9  # between neighbouring nodes
BOX, BOX_HEIGHT, NAME_HEIGHT = 0.4, 0.75, 0.85  # inches: a layer's width with its gap, its box, its name below


def ranking_scatter(
    scores: Sequence[float],
    truth: Sequence[float],
    complexities: Sequence[float],
    truth_name: str,
    tau: float,
    path: Path,
    parameters_tau: float | None = None,
    measure: str = "parameters",
) -> Path:
    """Accuracy of subnets in the supernet (x, percent) against that of the networks trained alone (y, percent),
    coloured by complexity.

    complexities: in units of `measure`, which names the colour bar. tau: Kendall's, of `scores` and `truth`;
    parameters_tau: what ranking by parameter count alone reaches. Both are written, not computed. A second panel shows
    the better half where a few poor subnets stretch the axis.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm, Normalize
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    x, y, cost = (np.asarray(values, dtype=float) for values in (scores, truth, complexities))
    order = np.random.default_rng(0).permutation(len(x))  # else those that come last hide the others
    least, largest = cost.min(), cost.max()
    logarithmic = least > 0 and largest > LOG_RANGE * least
    better = y >= np.median(y)
    crowded = np.ptp(y[better]) < np.ptp(y) / ZOOM
    figure, panels = new_panels(2 if crowded else 1, columns=2, scale=1.5)
    many = len(x) > MANY
    for axes, drawn in zip(panels, (order, order[better[order]]), strict=False):
        points = axes.scatter(
            x[drawn],
            y[drawn],
            c=cost[drawn],
            norm=(LogNorm if logarithmic else Normalize)(least, largest),
            cmap=ListedColormap(colormaps["viridis"](np.linspace(0, 0.93, 256))),  # its end is too bright on white
            s=max(4, 14 * (MANY / len(x)) ** 0.25) if many else 26,
            alpha=0.6 if many else 0.9,
            linewidths=0,
        )
        axes.set_xlabel("accuracy in the supernet (%)")
    bar = figure.colorbar(points, ax=panels, format=EngFormatter(sep=""))
    if logarithmic:
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.solids.set_alpha(1)
    bar.ax.tick_params(labelsize=TITLE_SIZE)
    bar.set_label(measure, fontsize=TITLE_SIZE)
    panels[0].set_ylabel(f"{truth_name}: accuracy trained alone (%)")
    alone = "" if parameters_tau is None else f" (by parameters alone {parameters_tau:.3f})"
    title = f"{len(x):,} subnets, Kendall's τ = {tau:.3f}{alone}".replace("-", "−")
    panels[0].set_title(title, fontsize=TITLE_SIZE)
    if crowded:
        panels[1].set_title("the better half of them, trained alone", fontsize=TITLE_SIZE)
    return save_panels(figure, panels, path)


def fairness_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Validation loss of the subnets of low, middle and high complexity over the steps of metrics.jsonl; None and
    no file if absent.
    """
    found = {key: [row[key] for row in rows if is_number(row.get(key))] for key in FAIRNESS}
    found = {key: losses for key, losses in found.items() if losses}
    if not found:
        return None
    figure, (axes,) = new_panels(1, columns=1, scale=1.3)
    for key, losses in found.items():
        label, color, marker = FAIRNESS[key]
        draw_curve(
            axes, rows, key, color=color, label=label, marker=marker, markersize=4, markevery=max(1, len(losses) // 20)
        )
    losses = np.concatenate(list(found.values()))
    if losses.min() > 0 and losses.max() > 10 * losses.min():
        axes.set_yscale("log")
    step_axis(axes)
    axes.set_ylabel("validation loss")
    return save_panels(figure, [axes], path)


def noise_curve(rows: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Cosine between the momentum and the next gradient over the steps of metrics.jsonl, and its running mean;
    None, no file, if absent.
    """
    rows = [row for row in rows if is_number(row.get(NOISE))]
    if not rows:
        return None
    cosines = [row[NOISE] for row in rows]
    figure, (axes,) = new_panels(1, columns=1, scale=1.3)
    axes.axhline(0, color="#777777", linewidth=0.8)
    draw_curve(axes, rows, NOISE, color=POINTS, linestyle="", marker=".", markersize=4, alpha=0.5, label="one step")
    means = [{"step": row["step"], NOISE: mean} for row, mean in zip(rows, _running_mean(cosines))]
    draw_curve(axes, means, NOISE, color=MEAN, label="running mean")
    axes.set_title(f"mean {np.mean(cosines):.3f}", fontsize=TITLE_SIZE)
    step_axis(axes)
    axes.set_ylabel("cosine of momentum and next gradient")
    return save_panels(figure, [axes], path)


def _running_mean(values: Sequence[float]) -> np.ndarray:
    """Over a twentieth of the values, fewer at the ends."""
    window = np.ones(min(2 * (len(values) // 40) + 1, len(values)))
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def cell_graph(operations: Sequence[str], edges: Sequence[tuple[int, int]], title: str, path: Path) -> Path:
    """The cell as a graph: an operation on each edge (source, target) between up to four nodes, the first the input,
    the last the output.

    `none` is faint and dashed.
    """
    from matplotlib.patches import Circle, FancyArrowPatch

    last = max(target for _, target in edges)
    figure, axes = _drawing(INCHES * (last + 0.6), INCHES * 2.25, (-0.3, last + 0.3), (-0.8, 1.2), title)
    nodes = [
        axes.add_patch(Circle((node, 0), NODE, facecolor="white", edgecolor="black", linewidth=1.2, zorder=3))
        for node in range(last + 1)
    ]
    for node in range(last + 1):
        name = {0: "input", last: "output"}.get(node, str(node))
        axes.text(node, 0, name, horizontalalignment="center", verticalalignment="center", fontsize=8, zorder=4)
    for operation, (source, target) in zip(operations, edges, strict=True):
        faint, span = operation in FAINT, target - source
        # Edges that pass over a node lie above the line when they begin at the input, below it otherwise: no two curves
        # cross
        height = RISE[span] * (-1 if source else 1)
        color = _color(operation)
        axes.add_patch(
            FancyArrowPatch(
                (source, 0),
                (target, 0),
                patchA=nodes[source],
                patchB=nodes[target],
                shrinkA=0,
                shrinkB=0,
                arrowstyle="-|>",
                mutation_scale=12,
                connectionstyle=f"arc3,rad={-2 * height / span}",
                color=color,
                linewidth=1.2 if faint else 2.2,
                linestyle="--" if faint else "-",
                zorder=1,
            )
        )
        axes.text(
            (source + target) / 2,
            height + (0.09 if span == 1 else 0),
            operation,
            fontsize=8,
            zorder=2,
            color=FAINT_WORDS if faint else "black",
            horizontalalignment="center",
            verticalalignment="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    return save_panels(figure, [axes], path)


def chain_figure(operations: Sequence[str], layers: Sequence[str], title: str, path: Path) -> Path:
    """A chain of layers as a row of boxes from input to output, an operation in each and the layer's name below;
    `identity` is faint.
    """
    from matplotlib.patches import FancyBboxPatch

    width = BOX * len(layers)
    margin = max(0, 4 - width) / 2  # room for the title of a short chain
    figure, axes = _drawing(
        width + 2 * margin + 0.2,
        BOX_HEIGHT + NAME_HEIGHT + 0.35,
        (-margin, width + margin),
        (-NAME_HEIGHT, BOX_HEIGHT + 0.05),
        title,
    )
    axes.plot([0, width], [BOX_HEIGHT / 2] * 2, color="#777777", linewidth=1, zorder=1)
    for number, (operation, layer) in enumerate(zip(operations, layers, strict=True)):
        faint, middle = operation in FAINT, BOX * (number + 0.5)
        axes.add_patch(
            FancyBboxPatch(
                (middle - 0.4 * BOX, 0),
                0.8 * BOX,
                BOX_HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.04",
                zorder=2,
                facecolor="white" if faint else _color(operation),
                edgecolor=_color(operation),
                linestyle="--" if faint else "-",
            )
        )
        words = {"rotation": 90, "horizontalalignment": "center", "fontsize": 8, "zorder": 3}
        ink = "white" if _luminance(_color(operation)) < 0.25 else "black"
        axes.text(
            middle, BOX_HEIGHT / 2, operation, verticalalignment="center", color=FAINT_WORDS if faint else ink, **words
        )
        axes.text(middle, -0.07, layer, verticalalignment="top", color=FAINT_WORDS if faint else "black", **words)
    return save_panels(figure, [axes], path)


def _color(operation: str) -> str:
    """Of an operation without a colour of its own one that depends on its name alone, and that it may share."""
    if operation in FAINT:
        return FAINT_COLOR
    return OPERATION_COLORS.get(operation) or OTHER_COLORS[sum(operation.encode()) % len(OTHER_COLORS)]


def _luminance(color: str) -> float:
    """0 (black) to 1 (white), of a hexadecimal color; the weights of ITU-R BT.709 on linearized components, gamma
    2.2.
    """
    return sum(
        weight * (int(color[i : i + 2], 16) / 255) ** 2.2 for weight, i in zip((0.2126, 0.7152, 0.0722), (1, 3, 5))
    )


def _drawing(
    width: float, height: float, x: tuple[float, float], y: tuple[float, float], title: str
) -> "tuple[Figure, Any]":
    """A figure of so many inches without axes, its units equally long in both directions."""
    figure, (axes,) = new_panels(1, columns=1)
    figure.set_size_inches(width, height)
    axes.set(xlim=x, ylim=y, aspect="equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=TITLE_SIZE)
    return figure, axes
