"""The quantized gradients of a network in training: what is observed, logged, noted and drawn of them.

Throughout, `quantizers` is what `gradient_quantizers` gives: the quantizer of each layer's output by the layer's name.
"""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quantlab.quantizers.gradient import GradientQuantizer
from quantlab.quantizers.gradient_interval import DSGC, LargeGradient
from quantlab.report import gradients as figures
from quantlab.run.directory import RunDirectory

logger = logging.getLogger("quantlab")

DRAWN_LAYERS = 4  # in pictures of single layers, spread evenly over the depth
QUANTITIES = {
    "gradient_clip_ratio": "clip_ratio",
    "gradient_clipped_share": "clipped_share",
    "gradient_error": "error",
    "large_gradient_error": "large_gradient_error",
}  # of metrics.jsonl, by their names in `GradientQuantizer.observed`


def held_clip_ratios(quantizers: Mapping[str, GradientQuantizer]) -> tuple[dict[str, Any], list[str]]:
    """Layers where `large_gradient` has too few gradients to move its clip ratio: facts for the results, and a note."""
    learning = {name: one for name, one in quantizers.items() if isinstance(one.interval, LargeGradient)}
    held = [name for name, one in learning.items() if one.elements < one.interval.fewest_elements(one.bits)]
    if not held:
        return {}, []
    first, interval = learning[held[0]], learning[held[0]].interval
    count = f"all {len(held)}" if len(held) == len(learning) else f"{len(held)} of {len(learning)}"
    needed, gamma = interval.fewest_elements(first.bits), float(interval.clip_ratio)
    same = " (min_max)" if gamma == 1 else ""
    note = f"gamma stays at {gamma:g}{same} in {count} layers: fewer than {needed} gradients in a batch"
    logger.info("gradients: %s", note)
    return {"layers": len(learning), "held": held, "fewest_elements": needed, "gamma": gamma}, [note]


def observe(quantizers: Mapping[str, GradientQuantizer], step: int, is_logged: bool) -> str:
    """Tell every quantizer what to do besides quantizing at `step`: observe where a line is logged, choose an interval
    where DSGC's period ends. Returns the stance of torch.compile, since the compiled graph has none of that.
    """
    for one in quantizers.values():
        one.observing = is_logged
        one.choosing = isinstance(one.interval, DSGC) and step % one.interval.period == 0
    return "force_eager" if any(one.observing or one.choosing for one in quantizers.values()) else "default"


def observed(quantizers: Mapping[str, GradientQuantizer]) -> dict[str, dict[str, Tensor]]:
    """What was observed in the last step: by quantity and layer a scalar; {} where nothing was."""
    found = {name: one.observed for name, one in quantizers.items() if one.observed}
    if not found:
        return {}
    return {column: {name: values[key] for name, values in found.items()} for column, key in QUANTITIES.items()}


def clipped_share_target(quantizers: Mapping[str, GradientQuantizer]) -> float | None:
    """The share of gradients that `large_gradient` aims to clip."""
    first = next(iter(quantizers.values()), None)
    if first is None or not isinstance(first.interval, LargeGradient):
        return None
    return first.interval.target(first.bits)


def draw(quantizers: Mapping[str, GradientQuantizer], directory: RunDirectory) -> None:
    """Curves over training, and histograms of the last logged step."""
    if not quantizers:
        return
    figures.gradient_curves(directory.metrics.read(), directory.figures / "gradients.png")
    found = {name: quantizers[name].observed for name in spread_evenly(list(quantizers))}
    shown = {
        name: {"counts": one["histogram"].tolist(), "clip_ratio": float(one["clip_ratio"])}
        for name, one in found.items()
        if one
    }
    if shown:
        figures.gradient_histograms(shown, directory.figures / "gradient_histograms.png")


def spread_evenly(names: list[str], count: int = DRAWN_LAYERS) -> list[str]:
    """At most `count` of `names`, the first and the last among them."""
    count = min(count, len(names))
    return [names[round(i * (len(names) - 1) / max(count - 1, 1))] for i in range(count)]
