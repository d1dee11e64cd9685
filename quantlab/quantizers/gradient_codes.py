"""The integers of a quantized gradient, drawn by stochastic rounding.

Of "Toward INT4 Fixed-Point Training via Exploring Quantization Error for Gradients", Kim et al., ECCV 2024 (arXiv
2407.12637):

    G_q = (c / Q) clip(floor(Q G / c + u), -Q, Q),   u ~ U[0, 1),   Q = 2^(b-1) - 1                                  (1)

2^b - 1 levels, zero among them. Inside [-c, c] the mean over u is G; beyond, a gradient goes to the nearer end.

u has 16 bits, and each of its 65,536 values stands in the middle of its cell, so that its mean is 1/2: what Q G / c has
beyond 16 binary places is rounded to nearest, at most 2^-17 of a step away and to either side alike. That is fine
enough for 16-bit gradients, too: there the step is 1 / 32,767 of c, and float32 itself tells no more than 2^-9 of it
apart near the ends.
"""

import torch
from torch import Tensor

LEAST = 1e-30  # in place of an interval of zero: an all-zero gradient stays zero


def largest_code(bits: int) -> int:
    """Q of Eq. (1): 7 for 4 bits."""
    return (1 << (bits - 1)) - 1


@torch.library.custom_op("quantlab::random_bytes", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def random_bytes(count: int, device: torch.device) -> Tensor:
    """uint8 [count], uniform over all values, from torch's generator of `device`.

    Random numbers are most of what quantizing a gradient costs, and a draw of 64 bits serves eight bytes. An operator
    of its own: a compiler would draw them one by one, and others than the uncompiled step.
    """
    # all 64 bits: no division
    drawn = torch.empty(-(-count // 8), dtype=torch.int64, device=device).random_(-(2**63), None)
    return drawn.view(torch.uint8)[:count]


@random_bytes.register_fake
def _(count: int, device: torch.device) -> Tensor:
    return torch.empty(count, dtype=torch.uint8, device=device)


def uniform_noise(like: Tensor) -> tuple[Tensor, Tensor]:
    """u of Eq. (1) in 16 bits, as u = high / 2^8 + low / 2^16 + 1 / 2^17: two uint8 tensors of `like`'s shape, which a
    compiler vectorizes and int16 it does not.
    """
    drawn = random_bytes(2 * like.numel(), like.device).view(2, -1)
    if like.ndim == 4 and (torch.compiler.is_compiling() or like.is_contiguous(memory_format=torch.channels_last)):
        n, c, h, w = like.shape  # laid out as the gradient is, or as compiled convolutions leave it
        high, low = drawn.view(2, n, h, w, c).permute(0, 1, 4, 2, 3)
    else:
        high, low = drawn.view(2, *like.shape)
    return high, low


def stochastic_codes(gradient: Tensor, end: Tensor, bits: int) -> Tensor:
    """The integers of Eq. (1), -Q .. Q, as a float32 tensor of the gradient's shape (any); end: c, a scalar tensor, or
    one that broadcasts. Where Q G / c is an integer, that is the code, whatever u.
    """
    q = largest_code(bits)
    noise = uniform_noise(gradient)
    scaled = gradient.float() * (q / end)
    if bits <= 8:
        return _floor_with_noise(scaled, *noise).clamp_(-q, q)
    whole = scaled.floor()  # float32 has no room for u beside more than 8 bits
    return _floor_with_noise(scaled.sub_(whole), *noise).add_(whole).clamp_(-q, q)


def _floor_with_noise(x: Tensor, high: Tensor, low: Tensor) -> Tensor:
    return x.add_(high, alpha=2.0**-8).add_(low, alpha=2.0**-16).add_(2.0**-17).floor_()


def quantize_gradient(gradient: Tensor, end: Tensor, bits: int) -> Tensor:
    """G_q of Eq. (1), a new tensor of the gradient's shape and dtype; end: c, a scalar tensor, or one that
    broadcasts.
    """
    end = end.float().clamp_min(LEAST)
    return stochastic_codes(gradient, end, bits).mul_(end / largest_code(bits)).to(gradient.dtype)


def clipped_count(gradient: Tensor, end: Tensor) -> Tensor:
    """How many elements lie beyond [-end, end]: an integer scalar."""
    beyond = gradient.abs() > end
    # Each is the faster one in its place
    return beyond.sum(dtype=torch.int32) if torch.compiler.is_compiling() else torch.count_nonzero(beyond)
