"""The metrics a results.json may hold: unit, better direction, meaning; and how numbers are printed."""

import math
from numbers import Real
from typing import Any, NamedTuple

PLAIN = frozenset((int, float, bool, str, list, dict, type(None)))  # what JSON holds


class Metric(NamedTuple):
    """How one metric is shown. `better` is an arrow; `unit` is "" for a pure number. `is_distance`: a positive number
    whose scatter grows with it, so that two of them are compared by their ratio.
    """

    better: str
    unit: str
    meaning: str
    is_distance: bool = False


PAIR = "the full-precision sample of the same noise"

# In the order of the columns.
METRICS = {
    "top1": Metric("↑", "%", "classified right at the first guess"),
    "top1_alone": Metric("↑", "%", "of the subnet found: its accuracy trained alone, as the truth has it"),
    "top5": Metric("↑", "%", "right class among the first five guesses"),
    "fid_to_fp32": Metric("↓", "", "Fréchet distance between the samples and the full-precision model's samples", True),
    "fid": Metric("↓", "", "Fréchet distance between the samples and the task's reference set"),
    "spectrum_ratio": Metric(
        "↓",
        "",
        "factor by which the energies of the samples' spatial frequencies differ from the task's images', "
        "mean over frequencies; 1: the same",
    ),
    "sfid": Metric("↓", "", "Fréchet distance on Inception's spatial features to the task's reference set"),
    "precision": Metric("↑", "", "share of the samples near a reference image, in Inception's features"),
    "recall": Metric("↑", "", "share of the reference images near a sample, in Inception's features"),
    "mse_to_fp32": Metric("↓", "", f"mean squared error per pixel (range -1 to 1) to {PAIR}", True),
    "mse_to_fp32_median": Metric(
        "↓", "", f"median over samples of the mean squared error per pixel (range -1 to 1) to {PAIR}", True
    ),
    "psnr": Metric("↑", "dB", f"peak signal-to-noise ratio to {PAIR}"),
    "psnr_y": Metric("↑", "dB", "peak signal-to-noise ratio of the luminance to the original image"),
    "ssim": Metric("↑", "", f"structural similarity to {PAIR}; in super-resolution of the luminance, to the original"),
    "lpips": Metric("↓", "", f"perceptual distance to {PAIR}"),
    "inception_score": Metric("↑", "", "Inception score of the samples"),
    "clip_score": Metric("↑", "", "100 times the cosine of an image's and its prompt's features in CLIP"),
    "kendall_tau": Metric("↑", "", "rank correlation with the accuracies of networks trained alone"),
    "spearman": Metric("↑", "", "Spearman's rank correlation with the same accuracies"),
    "precision_at_10": Metric(
        "↑", "", "how many of the best 10 subnets are among the 10 that are best trained alone, as a fraction"
    ),
    "precision_at_50": Metric("↑", "", "as precision_at_10, of 50"),
    "map": Metric("↑", "%", "mean average precision over IoU 0.50 to 0.95"),
    "map50": Metric("↑", "%", "mean average precision at IoU 0.50"),
    "map75": Metric("↑", "%", "mean average precision at IoU 0.75"),
    "loss": Metric("↓", "", "the loss, on images that it was not trained on"),
}


def column_order(names: set[str]) -> list[str]:
    """Metric names in the order of `METRICS`, unknown ones after them by name."""
    return [name for name in METRICS if name in names] + sorted(names - METRICS.keys())


def heading(name: str) -> str:
    """`psnr (dB) ↑`: the metric's name, its unit, and the direction that is better."""
    metric = METRICS.get(name)
    if metric is None:
        return name
    return f"{name} ({metric.unit}) {metric.better}" if metric.unit else f"{name} {metric.better}"


def is_number(value: Any) -> bool:
    """True for real numbers, NaN and infinities included; a bool is none."""
    kind = type(value)
    if kind in PLAIN:  # asking an abstract class is slow, and logs hold millions of values
        return kind is int or kind is float
    return isinstance(value, Real)


def reads_as_number(text: str) -> bool:
    """Whether `text` is the spelling of a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def format_number(value: float | None, digits: int = 4) -> str:
    """`value` with `digits` significant digits (integers and numbers above 10^digits in full); a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, int) or value == 0:
        return str(int(value))
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    text = f"{value:#.{digits}g}"
    return text if "e" in text else text.rstrip(".")


def format_bits(bits: dict[str, int]) -> str:
    """`W4A8`, or `W4A8G6` where gradients are quantized too, or `FP32` where nothing is."""
    widths = [bits.get(part, 32) for part in ("weight", "activation", "gradient")]
    if all(width == 32 for width in widths):
        return "FP32"
    text = f"W{widths[0]}A{widths[1]}"
    return text if widths[2] == 32 else f"{text}G{widths[2]}"
