"""Quantized gradients: what back-propagation hands a layer's two products, in integers with stochastic rounding.

"Toward INT4 Fixed-Point Training via Exploring Quantization Error for Gradients", Kim et al., ECCV 2024 (arXiv 2407.12637).
The gradient G of a layer's output is quantized once, layer-wise, uniformly and symmetrically, and feeds both the gradient of
the weight and that of the input:

    c = gamma max|G|,   G_q = (c / Q) clip(floor(Q G / c + u), -Q, Q),   u ~ U[0, 1),   Q = 2^(b-1) - 1              (1)

2^b - 1 levels, zero among them. Inside [-c, c] the mean over u is G; beyond, a gradient goes to the nearer end. Where the
interval ends, gamma, is the business of `gradient_interval`.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

LEAST = 1e-30           # in place of an interval of zero: an all-zero gradient stays zero
HISTOGRAM_BINS = 101    # of an observed gradient


def largest_code(bits: int) -> int:
    """Q of Eq. (1): 7 for 4 bits."""
    return 2 ** (bits - 1) - 1


@torch.library.custom_op("quantlab::random_bytes", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def random_bytes(count: int, device: torch.device) -> Tensor:
    """uint8 [count], uniform over all values, from torch's generator of `device`.

    Random numbers are most of what quantizing a gradient costs, and a draw of 64 bits serves eight bytes. An operator of its own: a
    compiler would draw them one by one, and others than the uncompiled step.
    """
    drawn = torch.empty(-(-count // 8), dtype=torch.int64, device=device).random_(-(2**63), None)   # all 64 bits: no division
    return drawn.view(torch.uint8)[:count]


@random_bytes.register_fake
def _(count: int, device: torch.device) -> Tensor:
    return torch.empty(count, dtype=torch.uint8, device=device)


def uniform_noise(like: Tensor) -> tuple[Tensor, Tensor]:
    """u of Eq. (1) in 16 bits, as u = high / 2^8 + low / 2^16: two uint8 tensors of `like`'s shape, which a compiler vectorizes and
    int16 it does not."""
    drawn = random_bytes(2 * like.numel(), like.device).view(2, -1)
    if like.ndim == 4 and (torch.compiler.is_compiling() or like.is_contiguous(memory_format=torch.channels_last)):
        n, c, h, w = like.shape     # laid out as the gradient is, or as compiled convolutions leave it
        high, low = drawn.view(2, n, h, w, c).permute(0, 1, 4, 2, 3)
    else:
        high, low = drawn.view(2, *like.shape)
    return high, low


def stochastic_codes(gradient: Tensor, end: Tensor, bits: int) -> Tensor:
    """The integers of Eq. (1), -Q .. Q, as a float32 tensor of the gradient's shape (any); end: c, a scalar tensor."""
    q = largest_code(bits)
    high, low = uniform_noise(gradient)
    scaled = gradient.float() * (q / end)
    return scaled.add_(high, alpha=2.0**-8).add_(low, alpha=2.0**-16).floor_().clamp_(-q, q)


def quantize_gradient(gradient: Tensor, end: Tensor, bits: int) -> Tensor:
    """G_q of Eq. (1), a new tensor of the gradient's shape and dtype; end: c, a scalar tensor."""
    end = end.float().clamp_min(LEAST)
    return stochastic_codes(gradient, end, bits).mul_(end / largest_code(bits)).to(gradient.dtype)


class _QuantizeGradient(torch.autograd.Function):
    # Never in place: autograd may hand the same tensor to a residual branch, whose gradient would be quantized with it.
    @staticmethod
    def forward(ctx, output, clip_ratio, quantizer):
        ctx.save_for_backward(clip_ratio)
        ctx.quantizer = quantizer
        return output.clone()   # not a view: an in-place activation may follow, as in torchvision's networks

    @staticmethod
    def backward(ctx, gradient):
        (clip_ratio,) = ctx.saved_tensors
        quantized, ratio_gradient = ctx.quantizer.quantized(gradient, clip_ratio)
        return quantized, ratio_gradient if ctx.needs_input_grad[1] else None, None


class GradientQuantizer(nn.Module):
    """The identity, through which gradients come back quantized to `bits` within the interval that `interval` keeps.

    Call it on the output of a layer. For a whole network: `gradient_quantizers`, `calibrate_gradients` once, and
    `update_intervals` after every optimizer step.

    `observing`: keep of the next gradient what a person wants to know (`observed`); it costs several passes over it.
    """

    def __init__(self, bits: int, interval: nn.Module):
        super().__init__()
        self.bits, self.interval = bits, interval
        self.choosing = False
        self.observing = False
        self.observed: dict[str, Tensor] = {}

    def forward(self, output: Tensor) -> Tensor:
        return _QuantizeGradient.apply(output, self.interval.clip_ratio, self)

    def quantized(self, gradient: Tensor, clip_ratio: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient quantized, and the gradient of the clip ratio where it is learned (see `gradient_interval`)."""
        largest = max_abs(gradient)
        if self.choosing:
            self.interval.choose(gradient, largest, self.bits)
        quantized = self.interval.quantize(gradient, clip_ratio, largest, self.bits)
        if self.observing:
            self.observed = observe(gradient, quantized, largest, clip_ratio, self.interval)
        return quantized, self.interval.ratio_gradient(gradient, clip_ratio, largest, self.bits)


def max_abs(gradient: Tensor) -> Tensor:
    """max|G|, a float32 scalar."""
    low, high = torch.aminmax(gradient)
    return torch.maximum(-low, high).float()


def clipped_count(gradient: Tensor, end: Tensor) -> Tensor:
    """How many elements lie beyond [-end, end]: an int32 scalar."""
    return (gradient.abs() > end).sum(dtype=torch.int32)


@torch.no_grad()
def observe(gradient: Tensor, quantized: Tensor, largest: Tensor, clip_ratio: Tensor, interval: nn.Module) -> dict[str, Tensor]:
    """What is drawn of one gradient: scalars, and the histogram of G / max|G| over [-1, 1] (float [HISTOGRAM_BINS]).

    E(G): mean|G_q - G| / max|G|; E(G_L): the same over the large gradients, the share `large_share` of all that is largest in
    magnitude (Sec. 3; the released code's definitions). `clipped_share`: R, beyond the interval.
    """
    size, error = gradient.float().abs().flatten(), (quantized.float() - gradient.float()).abs().flatten()
    unit = largest.clamp_min(LEAST)
    large = size.topk(max(1, round(interval.large_share * size.numel()))).indices
    return {
        "clip_ratio": clip_ratio.detach().clone(), "clipped_share": (size > clip_ratio * largest).mean(dtype=torch.float32),
        "error": error.mean() / unit, "large_gradient_error": error[large].mean() / unit,
        "histogram": (gradient.float() / unit).flatten().cpu().histc(HISTOGRAM_BINS, -1, 1),
    }


def gradient_quantizers(network: nn.Module) -> dict[str, GradientQuantizer]:
    """Those of `network`, by the name of the layer they stand behind."""
    return {name.rpartition(".")[0]: module for name, module in network.named_modules() if isinstance(module, GradientQuantizer)}


@contextlib.contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Whatever runs inside leaves the buffers and gradients of `network` as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    network.zero_grad(set_to_none=True)
    yield
    with torch.no_grad():
        for buffer, kept in buffers:
            buffer.copy_(kept)
    for parameter, kept in gradients:
        parameter.grad = kept


def calibrate_gradients(network: nn.Module, loss: Callable[[], Tensor]) -> None:
    """One backward pass of the scalar that `loss()` computes with `network`, in which every interval is chosen from the gradient
    that comes; nothing else of the network changes.

    From the last layer to the first, each on what the layers behind it have quantized already.
    """
    quantizers = gradient_quantizers(network).values()
    for quantizer in quantizers:
        quantizer.choosing = True
    with untouched(network):
        loss().backward()
    for quantizer in quantizers:
        quantizer.choosing = False


def update_intervals(quantizers: Iterable[GradientQuantizer]) -> None:
    """After every optimizer step: let each interval learn from the gradients that have come since the last call."""
    for quantizer in quantizers:
        quantizer.interval.update()
