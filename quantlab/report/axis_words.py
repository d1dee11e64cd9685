"""What the axes of pictures say: logged quantities in plain words, with their units and bounds."""

import math

from quantlab.report.metrics import METRICS

WORDS = {
    "loss": "loss",
    "top1": "top-1 accuracy (%)",
    "top1_alone": "top-1 accuracy,\ntrained alone (%)",
    "top5": "top-5 accuracy (%)",
    "map": "average precision (%)",
    "map50": "average precision\nat IoU 0.50 (%)",
    "map75": "average precision\nat IoU 0.75 (%)",
    "psnr": "PSNR (dB)",
    "psnr_y": "PSNR of luminance (dB)",
    "ssim": "structural similarity",
    "fid": "FID",
    "fid_to_fp32": "FID to full precision",
    "mse_to_fp32": "MSE to full precision",
    "mse_to_fp32_median": "median MSE to full precision",
    "kendall_tau": r"Kendall's $\tau$",
    "rounding_penalty": "rounding penalty",
    "unsettled": "share of unsettled\nroundings (0 to 1)",
    "running_transition_rate": "running transition rate $K$\n(share of weights a step)",
    "talr": "transition-adaptive\nlearning rate $U$",
    "effective_step_size": "average effective\nstep size",
    "distance_to_transition_point": "mean distance to\ntransition point (levels)",
    "oscillating_share": "share of oscillating\nweights (0 to 1)",
    "frozen_share": "share of frozen\nweights (0 to 1)",
    "gradient_clip_ratio": r"clip ratio $\gamma$ (0 to 1)",
    "gradient_clipped_share": "share of clipped\ngradients $R$ (0 to 1)",
    "gradient_error": "relative error of\nall gradients $E(G)$",
    "large_gradient_error": "relative error of\nlarge gradients $E(G_L)$",
    "momentum_cosine": "cosine of momentum\nand next gradient",
}
SHARES = ("share", "ssim", "unsettled", "clip_ratio", "transition_rate")
VALIDATION = "validation_"


def words_of(key: str) -> str:
    """The label of an axis for a key of metrics.jsonl; on two lines where it is long."""
    name = key.removeprefix(VALIDATION)
    words = WORDS.get(name, name.replace("_", " "))
    return (
        f"validation\n{words}" if key != name and len(words) > 12 else f"validation {words}" if key != name else words
    )


def bounds_of(key: str) -> tuple[float, float]:
    """The least and the greatest value that a quantity can have."""
    name = key.removeprefix(VALIDATION)
    if name in METRICS and METRICS[name].unit == "%":
        return 0.0, 100.0
    if any(word in name for word in SHARES):
        return 0.0, 1.0
    return (-1.0, 1.0) if name == "momentum_cosine" else (0.0, math.inf) if name in WORDS else (-math.inf, math.inf)
