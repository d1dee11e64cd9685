"""Images with true boxes and a detector's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantlab.report.figures import STYLE
from quantlab.report.png import write_png

TRUE, FOUND = "#56B4E9", "#D55E00"  # Okabe and Ito's, distinguishable for colour-blind readers
PANEL = 2.1  # inches: width of one image
LEGEND = 0.35  # inches
WORDS = 0.06  # of a panel's height: the height of a box's label


class Boxes(NamedTuple):
    """Boxes of one image: float [n, 4] x1, y1, x2, y2 in pixels, their class names, and scores or None."""

    boxes: np.ndarray
    names: list[str]
    scores: np.ndarray | None = None


def detection_grid(
    images: Sequence[np.ndarray],
    true: Sequence[Boxes],
    rows: Mapping[str, Sequence[Boxes]],
    path: Path,
    threshold: float,
) -> Path:
    """A row for each entry of `rows` (a model's name: its detections in every image), a column for each image; returns
    the PNG's path.

    images: uint8 [H, W, C], C 1 or 3. true: the true boxes, dashed, without labels. Detections are labelled with class
        and score (0 to 1).
    threshold: the lower bound of the shown scores, for the legend.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    tallest = max(image.shape[0] / image.shape[1] for image in images)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PANEL * len(images), PANEL * tallest * len(rows) + LEGEND), layout="constrained")
        panels = figure.subplots(len(rows), len(images), squeeze=False)
        for line, (label, found) in zip(panels, rows.items(), strict=True):
            for axes, image, truth, guess in zip(line, images, true, found, strict=True):
                _draw(axes, image, truth, guess)
            line[0].set_ylabel(label)
        keys = {
            "true": Line2D([], [], color=TRUE, linestyle="--", linewidth=1.6),
            f"found, score above {threshold:g}": Line2D([], [], color=FOUND, linewidth=1.6),
        }
        figure.legend(keys.values(), keys, loc="outside upper center", ncols=len(keys))
        return write_png(path, figure.savefig)


def _draw(axes, image: np.ndarray, true: Boxes, found: Boxes) -> None:
    from matplotlib.patches import Rectangle

    pixels = image if image.shape[2] == 3 else image.repeat(3, axis=2)
    height, width = pixels.shape[:2]
    # pixel edges, as for the boxes: a box of one pixel encloses it
    axes.imshow(pixels, interpolation="nearest", extent=(0, width, height, 0))
    for boxes, color, style in ((found, FOUND, "-"), (true, TRUE, "--")):
        for x1, y1, x2, y2 in boxes.boxes:
            axes.add_patch(
                Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.6, linestyle=style)
            )
    for (x1, y1, _, _), name, score in zip(found.boxes, found.names, found.scores, strict=True):
        above = y1 > WORDS * height  # no room at the upper border: the label is inside the box
        axes.text(
            x1,
            y1,
            f"{name} {score:.2f}",
            color="white",
            fontsize=6,
            verticalalignment="bottom" if above else "top",
            clip_on=True,
            bbox={"facecolor": FOUND, "edgecolor": "none", "pad": 0.8},
        )
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)
