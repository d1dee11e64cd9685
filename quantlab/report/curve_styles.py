"""How curves look: methods keep their colour, line and place in every figure.

The first colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

import zlib
from collections.abc import Iterable
from typing import Any

from quantlab.config.methods.base import Curve
from quantlab.config.sections import of_group

ONE_RUN = Curve(("",), "#0072B2")  # the only run of a figure
OTHER_COLORS = ("#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255", "#117733", "#332288", "#8C6D31")
OTHER_LINES = ("-", "-.", ":")
OTHER_WIDTH = 1.4


def named_curves() -> list[Curve]:
    """Curves that look the same in every figure, in the order of drawing and of the legend."""
    curves = [ONE_RUN, *(curve for method in of_group("method") for curve in method.curves)]
    return sorted(curves, key=lambda curve: curve.linewidth)


def line_styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Labels in the order of drawing, each with its line: the named, and others before those that are thicker.

    The colour is the method's, what a label says before its brackets: the same in every picture, unless two methods
    without a curve of their own meet that would share one. Configurations of a method differ in shade and line.
    """
    named = named_curves()
    places = {label: place for place, curve in enumerate(named) for label in curve.labels}
    others_place = sum(curve.linewidth <= OTHER_WIDTH for curve in named) - 0.5
    labels = sorted(dict.fromkeys(labels), key=lambda label: (places.get(method_of(label), others_place), "(" in label))
    colors = _method_colors([method_of(label) for label in labels])
    styles: dict[str, dict[str, Any]] = {}
    drawn: dict[str, int] = {}
    for label in labels:
        method = method_of(label)
        place, variant = places.get(method), drawn.get(method, 0)
        drawn[method] = variant + 1
        count = sum(method_of(other) == method for other in labels)
        if place is not None and not variant:
            styles[label] = {key: value for key, value in named[place]._asdict().items() if key != "labels"}
        else:
            line = OTHER_LINES[variant % len(OTHER_LINES)]
            styles[label] = {"color": colors[method], "linestyle": line, "linewidth": OTHER_WIDTH, "marker": "D"}
        styles[label]["color"] = _shade(colors[method], variant / max(count, 4))
    return styles


def method_of(label: str) -> str:
    """What stands before the brackets of a label."""
    return label.split(" (")[0]


def _method_colors(methods: Iterable[str]) -> dict[str, str]:
    colors = {label: curve.color for curve in named_curves() for label in curve.labels}
    methods = {*methods}
    taken = {colors[method] for method in methods & colors.keys()}
    for method in sorted(methods - colors.keys()):
        first = zlib.crc32(method.encode()) % len(OTHER_COLORS)
        order = [*OTHER_COLORS[first:], *OTHER_COLORS[:first]]
        colors[method] = next((color for color in order if color not in taken), order[0])
        taken.add(colors[method])
    return colors


def _shade(color: str, share: float) -> str:
    """`color`, with a share of white of up to two thirds."""
    parts = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * share * 2 / 3):02X}" for part in parts)
