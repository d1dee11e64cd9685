"""Images with true boxes and a detector's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantlab.report.panels import STYLE
from quantlab.report.png import write_png

TRUE = "#00FFFF"  # on a dark line, so that it is seen on any image
# of classes, by their place among those of the picture; with white or black words
CLASSES = ("#D55E00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#E69F00", "#8DD3C7", "#B15928", "#BC80BD")
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
    from matplotlib.patheffects import withStroke

    names = {name for boxes in (*true, *(one for row in rows.values() for one in row)) for name in boxes.names}
    colors = {name: CLASSES[place % len(CLASSES)] for place, name in enumerate(sorted(names))}
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PANEL * len(images), PANEL * tallest * len(rows) + LEGEND), layout="constrained")
        panels = figure.subplots(len(rows), len(images), squeeze=False)
        for line, (label, found) in zip(panels, rows.items(), strict=True):
            for axes, image, truth, guess in zip(line, images, true, found, strict=True):
                _draw(axes, image, truth, guess, colors)
            line[0].set_ylabel(label)
        keys = {
            "true": Line2D(
                [],
                [],
                color=TRUE,
                linestyle="--",
                path_effects=[withStroke(linewidth=2.6, foreground="#444444")],
                linewidth=1.6,
            ),
            f"found, score above {threshold:g}: one colour per class": Line2D([], [], color=CLASSES[0], linewidth=1.6),
        }
        figure.legend(keys.values(), keys, loc="outside upper center", ncols=len(keys))
        return write_png(path, figure.savefig)


def _draw(axes, image: np.ndarray, true: Boxes, found: Boxes, colors: Mapping[str, str]) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    pixels = image if image.shape[2] == 3 else image.repeat(3, axis=2)
    height, width = pixels.shape[:2]
    # pixel edges, as for the boxes: a box of one pixel encloses it
    axes.imshow(pixels, interpolation="nearest", extent=(0, width, height, 0))

    def outline(box, **style):
        x1, y1, x2, y2 = box
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=1.6, **style))

    for box in true.boxes:
        outline(box, edgecolor=TRUE, linestyle="--", path_effects=[withStroke(linewidth=2.6, foreground="#444444")])
    for box, name, score in zip(found.boxes, found.names, found.scores if len(found.boxes) else (), strict=True):
        outline(box, edgecolor=colors[name])
        above = box[1] > WORDS * height  # no room at the upper border: the label is inside the box
        axes.text(
            box[0],
            box[1],
            f"{name} {score:.2f}",
            color="black" if _is_light(colors[name]) else "white",
            fontsize=7.5,
            fontweight="bold",
            verticalalignment="bottom" if above else "top",
            clip_on=True,
            bbox={"facecolor": colors[name], "edgecolor": "none", "pad": 0.8},
        )
    if not len(found.boxes):
        axes.set_xlabel("nothing found", fontsize=8, color="#666666", labelpad=2)
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


def _is_light(color: str) -> bool:
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140
