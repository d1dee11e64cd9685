"""results/overview.png, the picture of README.md: for each of the four methods one measured comparison.

`python scripts/docs_numbers.py` draws it from the JSON of the tables, where it is not of their numbers already: the PNG
holds them as text. A method without a table yet has no panel; without any table there is no picture.
"""

import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from quantlab.report.metrics import format_number
from quantlab.report.table import spread

KEY = "Description"  # of the PNG's text, where its numbers stand


class Panel(NamedTuple):
    """One column of a table. rows: by name what they are called here; ours: those with the paper's method."""

    title: str
    file: str
    metric: str
    column: str
    rows: dict[str, str]
    ours: tuple[str, ...]
    axis: str
    log: bool = False


PANELS = (
    Panel(
        "accuquant: diffusion model of digits, W4A8",
        "accuquant_quality-digits",
        "mse_to_fp32",
        "W4A8",
        {"accuquant": "AccuQuant", "step": "step by step", "block": "block by block", "none": "ranges only"},
        ("AccuQuant",),
        "mean squared error to full precision (lower is better)",
        log=True,
    ),
    Panel(
        "qat: ResNet-20 on CIFAR-10 at 16×16, W2A2",
        "qat_optimizers-small",
        "top1",
        "W2A2",
        {"sgdt": "SGDT", "sgd": "SGD", "adamt": "AdamT", "adam": "Adam"},
        ("SGDT", "AdamT"),
        "top-1 accuracy (%, higher is better)",
    ),
    Panel(
        "low_bit: ResNet-20 on CIFAR-10 at 16×16, W4A4G4",
        "low_bit_intervals-small",
        "top1",
        "W4A4G4",
        {"large_gradient": "large gradients", "min_max": "largest gradient", "dsgc": "DSGC", "piecewise": "piecewise"},
        ("large gradients",),
        "top-1 accuracy (%, higher is better)",
    ),
    Panel(
        "supernet: NAS-Bench-201 on CIFAR-10, 40 epochs",
        "supernet-small",
        "kendall_tau",
        "40_epochs",
        {"spos_calr_ms": "SPOS + CaLR + MS", "spos": "SPOS", "complexity_alone": "parameter count alone"},
        ("SPOS + CaLR + MS",),
        "Kendall's τ with true accuracies (higher is better)",
    ),
)
PAPER, BASELINE = "#1f5fbf", "#7a7a7a"


def numbers(results: Path) -> dict[str, dict[str, list[float]]]:
    """By title of the panels that have any, and label, the values of the seeds."""
    found = {}
    for panel in PANELS:
        path = results / f"{panel.file}.json"
        runs = json.loads(path.read_text("utf-8"))["runs"] if path.is_file() else []
        here = [run for run in runs if run["column"] == panel.column and panel.metric in run]
        rows = {name: [run[panel.metric] for run in here if run["row"] == row] for row, name in panel.rows.items()}
        if all(rows[name] for name in list(rows)[:2]):  # the method, and what it is compared with
            found[panel.title] = {name: values for name, values in rows.items() if values}
    return found


def is_current(results: Path) -> bool:
    """Whether the picture is there where there are numbers, and of these numbers."""
    path, wanted = results / "overview.png", numbers(results)
    if not wanted or not path.is_file():
        return not wanted and not path.is_file()
    with Image.open(path) as image:
        return image.text.get(KEY) == json.dumps(wanted)


def draw(results: Path) -> None:
    """Write the picture, or remove it where there are no numbers any more."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    wanted, path = numbers(results), results / "overview.png"
    if not wanted:
        path.unlink(missing_ok=True)
        return
    shown = [panel for panel in PANELS if panel.title in wanted]
    rows = -(-len(shown) // 2)
    figure, axes = pyplot.subplots(
        rows, min(len(shown), 2), figsize=(11, 2.3 * rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    for panel, ax in zip(shown, axes.flat, strict=False):
        _draw_panel(ax, panel, wanted[panel.title])
    figure.supxlabel("mean ± standard deviation over seeds; blue: the paper's method", fontsize=9, color=BASELINE)
    figure.savefig(path, dpi=130, metadata={KEY: json.dumps(wanted)})
    pyplot.close(figure)


def _draw_panel(ax, panel: Panel, rows: dict[str, list[float]]) -> None:
    for place, (name, values) in enumerate(rows.items()):
        found = spread(values)
        color, deviation = PAPER if name in panel.ours else BASELINE, found.deviation or 0.0
        left = min(deviation, 0.9 * found.mean) if panel.log else deviation  # a logarithmic axis has no zero
        ax.errorbar(found.mean, place, xerr=[[left], [deviation]], fmt="o", color=color, capsize=3)
        said = str(found) if deviation else format_number(found.mean)
        at = (found.mean, place)
        ax.annotate(said, at, (0, 6), textcoords="offset points", ha="center", fontsize=9, color=color)
    seeds = max(len(values) for values in rows.values())
    ax.set_title(f"{panel.title}, {seeds} seed{'s'[: seeds != 1]}", fontsize=9.5, loc="left")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.7)
    ax.set_xlabel(panel.axis, fontsize=9)
    if panel.log:
        from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(x=0.15)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", alpha=0.3)
