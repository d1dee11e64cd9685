"""Whether what a method learns fits into memory, asked before any work.

A lower bound, in bytes for each quantized weight: its code twice (now, and as the calibrated ranges left it) and its
value; where its rounding is learned, no value, but the rounding variable, its gradient and Adam's two moments.
Activations come on top, which gradient checkpointing, smaller batches and bfloat16 make less of.
"""

import torch

from quantlab.devices import free_memory
from quantlab.errors import RequestError

GIB = 2**30
CALIBRATED = 4 + 4 + 1  # full precision, value, code: while ranges are chosen
LEARNED = 4 + 4 + 8 + 1 + 1  # variable, its gradient, moments, codes (`rounding.held_weights`)


def require_memory(quantized: int, others: int, learns_rounding: bool, device: torch.device) -> None:
    """Raises RequestError, with what would fit, where learning needs more memory than there is.

    quantized: how many weights are quantized; others: parameters besides them. The full-precision network is loaded.
    """
    available = free_memory(device) + 4 * (quantized + others)
    scales, rounding = (4 * others + quantized * each for each in (CALIBRATED, LEARNED))
    if (rounding if learns_rounding else scales) <= available:
        return
    what = "the rounding of weights is learned" if learns_rounding else "activation scales are learned"
    remedy = "choose a smaller model, or a device with more memory"
    if learns_rounding and scales <= available:
        remedy = f"type method.learn.rounding=false, which takes {scales / GIB:.3g} GiB and activations"
    least = (rounding if learns_rounding else scales) / GIB
    raise RequestError(
        f"method.learn: {quantized / 1e6:.4g} million weights take at least {least:.3g} GiB of {device.type} memory"
        f" where {what}, and activations on top, but {available / GIB:.3g} GiB are there; {remedy}"
    )
