"""Quantized gradients: what back-propagation hands a layer's two products, in integers with stochastic rounding.

"Toward INT4 Fixed-Point Training via Exploring Quantization Error for Gradients", Kim et al., ECCV 2024 (arXiv
2407.12637). The gradient G of a layer's output is quantized once, layer-wise, uniformly and symmetrically, and feeds
both the gradient of the weight and that of the input:

    c = gamma max|G|,   G_q = (c / Q) clip(floor(Q G / c + u), -Q, Q),   u ~ U[0, 1),   Q = 2^(b-1) - 1              (1)

The integers are drawn in `gradient_codes`; where the interval ends, gamma, is the business of `gradient_interval`.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quantlab.errors import RunError
from quantlab.quantizers.gradient_codes import LEAST, clipped_count
from quantlab.quantizers.gradient_interval import Interval

HISTOGRAM_BINS = 101  # of an observed gradient


class _QuantizeGradient(torch.autograd.Function):
    # Never in place: autograd may hand the same tensor to a residual branch, whose gradient would be quantized with it.
    @staticmethod
    def forward(output: Tensor, clip_ratio: Tensor, tally: Tensor | None, quantizer: "GradientQuantizer") -> Tensor:
        return output.clone()  # not a view: an in-place activation may follow, as in torchvision's networks

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, clip_ratio, _, ctx.quantizer = inputs
        ctx.save_for_backward(clip_ratio)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (clip_ratio,) = ctx.saved_tensors
        quantized, counts = ctx.quantizer.quantized(gradient, clip_ratio)
        return quantized, None, counts if ctx.needs_input_grad[2] else None, None


class GradientQuantizer(nn.Module):
    """The identity, through which gradients come back quantized to `bits` (2 to 16) within the interval that `interval`
    keeps.

    Call it on the output of a layer. For a whole network: `gradient_quantizers`, `calibrate_gradients` once, and
    `update_intervals` after every optimizer step.

    per_channel: max|G| is that of each channel of [N, C, H, W], for depthwise convolutions; the clip ratio is one for
        all of them.
    `choosing`: let the interval be chosen anew from the next gradient; `elements`: how many came in the backward pass
    of `calibrate_gradients`. `observing`: keep of the next gradient what a person wants to know (`observed`); it costs
    several passes over it.
    """

    def __init__(self, bits: int, interval: Interval, per_channel: bool = False):
        super().__init__()
        self.bits, self.interval, self.per_channel = bits, interval, per_channel
        self.choosing = False
        self.elements = 0
        self.observing = False
        self.observed: dict[str, Tensor] = {}

    def forward(self, output: Tensor) -> Tensor:
        # `.data`: DDP copies buffers anew at every forward pass, which may come between another and its backward pass
        passed: Tensor = _QuantizeGradient.apply(output, self.interval.clip_ratio.data, self.interval.tally, self)
        return passed

    def integers(self, x: Tensor | None = None) -> NoReturn:
        raise RunError("integers: got the quantizer of a gradient, whose codes are drawn anew in every backward pass")

    def quantized(self, gradient: Tensor, clip_ratio: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient quantized, and what the interval's tally adds up (see `gradient_interval`)."""
        if gradient.numel() == 0:  # of an empty batch: there is no largest
            return gradient.clone(), gradient.new_zeros(2, dtype=torch.float32)
        largest = max_abs(gradient, self.per_channel)
        if self.choosing:
            self.elements += gradient.numel()
            self.interval.choose(gradient, largest, self.bits)
        quantized = self.interval.quantize(gradient, clip_ratio, largest, self.bits)
        if self.observing:
            self.observed = observe(gradient, quantized, largest, clip_ratio, self.interval)
        return quantized, self.interval.counts(gradient, clip_ratio, largest)


def max_abs(gradient: Tensor, per_channel: bool = False) -> Tensor:
    """max|G|, a float32 scalar; per_channel: of [N, C, H, W] or [C, H, W], float32 of that shape with sizes 1 but
    for C.
    """
    if per_channel:
        return (
            gradient.abs().amax([dim for dim in range(gradient.ndim) if dim != gradient.ndim - 3], keepdim=True).float()
        )
    low, high = torch.aminmax(gradient)
    return torch.maximum(-low, high).float()


@torch.no_grad()
def observe(
    gradient: Tensor, quantized: Tensor, largest: Tensor, clip_ratio: Tensor, interval: Interval
) -> dict[str, Tensor]:
    """What is drawn of one gradient: scalars, and the histogram of G / max|G| over [-1, 1] (float [HISTOGRAM_BINS]).

    E(G): mean|G_q - G| / max|G|; E(G_L): the same over the large gradients, the share `large_share` of all that is
    largest in magnitude (Sec. 3; the released code's definitions, but that its threshold of large gradients follows
    their share by a step of 1e-3 per update, where ours is exact). `clipped_share`: R, beyond the interval. Where
    max|G| is one per channel, errors are relative to the largest of all, the histogram to each channel's own.
    """
    size, error = gradient.float().abs().flatten(), (quantized.float() - gradient.float()).abs().flatten()
    unit = largest.max().clamp_min(LEAST)
    large = size.topk(max(1, round(interval.large_share * size.numel()))).indices
    return {
        "clip_ratio": clip_ratio.clone(),
        "clipped_share": clipped_count(gradient, clip_ratio * largest).float() / gradient.numel(),
        "error": error.mean() / unit,
        "large_gradient_error": error[large].mean() / unit,
        "histogram": (gradient.float() / largest.clamp_min(LEAST)).flatten().cpu().histc(HISTOGRAM_BINS, -1, 1),
    }


def gradient_quantizers(network: nn.Module) -> dict[str, GradientQuantizer]:
    """Those of `network`: of a quantized layer by the layer's name, any other by its own."""
    return {
        re.sub(r"(^|\.)gradient_quantizer$", "", name): module
        for name, module in network.named_modules()
        if isinstance(module, GradientQuantizer)
    }


@contextlib.contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Whatever runs inside leaves the gradients of `network`, the tallies of its intervals and its buffers as they
    were, but for what an interval chooses.
    """
    intervals = [quantizer.interval for quantizer in gradient_quantizers(network).values()]
    chosen = {id(buffer) for interval in intervals for buffer in interval.buffers()}
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers() if id(buffer) not in chosen]
    gathering = [*network.parameters(), *(interval.tally for interval in intervals if interval.tally is not None)]
    gradients = [(tensor, tensor.grad) for tensor in gathering]
    for tensor in gathering:
        tensor.grad = None
    yield
    with torch.no_grad():
        for buffer, kept in buffers:
            buffer.copy_(kept)
    for tensor, gradient in gradients:
        tensor.grad = gradient


def calibrate_gradients(network: nn.Module, loss: Callable[[], Tensor]) -> None:
    """One backward pass of the scalar that `loss()` computes with `network`, in which every interval is chosen from the
    gradient that comes; nothing else of the network changes.

    From the last layer to the first, each on what the layers behind it have quantized already. Several processes end
    with the mean of what each has chosen.
    """
    quantizers = gradient_quantizers(network).values()
    for quantizer in quantizers:
        quantizer.choosing, quantizer.elements = True, 0
    with untouched(network):
        loss().backward()  # type: ignore[no-untyped-call]
    for quantizer in quantizers:
        quantizer.choosing = False
    agree_on_choice(quantizers)


def update_intervals(quantizers: Iterable[GradientQuantizer]) -> None:
    """After every optimizer step: let each interval learn from the gradients that have come since the last call.

    Where torch.distributed is initialized every process must call it, with the same quantizers: what was counted is
    summed over all.
    """
    quantizers = list(quantizers)
    if any(quantizer.choosing for quantizer in quantizers):
        agree_on_choice(quantizers)
    tallies = [tally for quantizer in quantizers if (tally := quantizer.interval.tally) is not None]
    if tallies and _process_count() > 1:
        # A layer that was not called here was perhaps elsewhere
        gradients = [torch.zeros_like(tally) if tally.grad is None else tally.grad for tally in tallies]
        _sum_over_processes(gradients)
        for tally, gradient in zip(tallies, gradients):
            tally.grad = gradient
    for quantizer in quantizers:
        if quantizer.interval.tally is not None:
            quantizer.interval.update(quantizer.bits)


def agree_on_choice(quantizers: Iterable[GradientQuantizer]) -> None:
    """After a backward pass in which intervals were chosen: several processes take the mean of what each has chosen
    from its own share of the batch.
    """
    chosen = [buffer for quantizer in quantizers for buffer in quantizer.interval.buffers()]
    if chosen and _process_count() > 1:
        _sum_over_processes(chosen, divide_by=_process_count())


def _process_count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _sum_over_processes(tensors: list[Tensor], divide_by: int = 1) -> None:
    """In one message; float64, in which the mean of equal numbers is that number."""
    flat = torch.cat([tensor.detach().flatten().double() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor) / divide_by)
