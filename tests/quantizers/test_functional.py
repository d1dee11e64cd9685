"""The quantizer's maths against values worked out by hand, laws, and an independent derivative."""

import pytest
import torch

from quantlab.quantizers.functional import (
    affine_parameters,
    code_range,
    dequantize,
    fake_quantize,
    lp_range,
    min_max_range,
    quantize,
    search_range,
)


def test_two_bit_asymmetric_by_hand():
    # [-1, 2] in 2 bits: s = 3/3 = 1, z = 1, levels -1, 0, 1, 2; halves round to even
    scale, zero_point = affine_parameters(torch.tensor([-1.0]), torch.tensor([2.0]), 2, symmetric=False)
    assert (scale.item(), zero_point.item()) == (1.0, 1.0)
    x = torch.tensor([-3.0, -0.4, 0.5, 1.5, 1.6, 9.0])
    assert quantize(x, scale, zero_point, 0, 3).tolist() == [0, 1, 1, 3, 3, 3]
    assert fake_quantize(x, scale, zero_point, 0, 3).tolist() == [-1, 0, 0, 2, 2, 2]


def test_symmetric_codes_by_hand():
    assert code_range(4, symmetric=True) == (-8, 7)
    scale, zero_point = affine_parameters(torch.tensor([-3.0]), torch.tensor([7.0]), 4, symmetric=True)
    assert (scale.item(), zero_point.item()) == (1.0, 0.0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_laws(bits, symmetric):
    x = torch.randn(5, 400, generator=torch.Generator().manual_seed(bits))
    low, high = min_max_range(x)
    scale, zero_point = (value[:, None] for value in affine_parameters(low, high, bits, symmetric))
    q_min, q_max = code_range(bits, symmetric)
    x_hat = fake_quantize(x, scale, zero_point, q_min, q_max)
    # idempotent, zero stays zero, at most 2^b levels, and inside the range at most half a step off (one where z rounds)
    torch.testing.assert_close(fake_quantize(x_hat, scale, zero_point, q_min, q_max), x_hat)
    assert fake_quantize(torch.zeros(5, 1), scale, zero_point, q_min, q_max).abs().max() == 0
    assert max(len(row.unique()) for row in x_hat) <= 2**bits
    assert ((x_hat - x).abs() <= scale * 1.001).all()
    codes = quantize(x, scale, zero_point, q_min, q_max)
    torch.testing.assert_close(dequantize(codes, scale, zero_point), x_hat)


def test_constant_zero_row_stays_zero():
    scale, zero_point = search_range(torch.zeros(1, 8), 4, False, "lp", 2.4)
    assert fake_quantize(torch.zeros(8), scale, zero_point, 0, 15).tolist() == [0.0] * 8


def straight_through_composition(x, scale, zero_point, q_min, q_max):
    ratio = x / scale
    rounded = torch.round(ratio).detach() + (ratio - ratio.detach())
    code = rounded + zero_point
    inside = (code >= q_min) & (code <= q_max)  # torch's own clamp has another derivative on its bounds, by version
    return (torch.where(inside, code, code.detach().clamp(q_min, q_max)) - zero_point) * scale


@pytest.mark.parametrize("shape", [(), (6, 1, 1)])
def test_derivatives_equal_autograd_of_the_composition(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, 4, dtype=torch.float64, generator=generator)
    scale = torch.full(shape, 0.11, dtype=torch.float64) * (1 + torch.rand(shape, generator=generator))
    grad = torch.randn(6, 3, 4, dtype=torch.float64, generator=generator)
    derivatives = []
    for function in (fake_quantize, straight_through_composition):
        x_, scale_ = x.clone().requires_grad_(), scale.clone().requires_grad_()
        function(x_, scale_, torch.tensor(7.0), 0, 15).backward(grad)
        derivatives.append((x_.grad, scale_.grad))
    for ours, theirs in zip(*derivatives):
        torch.testing.assert_close(ours, theirs)


def test_lp_range_beats_min_max_on_an_outlier():
    x = torch.cat([torch.randn(2000, generator=torch.Generator().manual_seed(1)), torch.tensor([8.0])])[None]

    def error(low, high):
        scale, zero_point = affine_parameters(low, high, 4, False)
        return (fake_quantize(x, scale, zero_point, 0, 15) - x).abs().pow(2.4).sum().item()

    low, high = lp_range(x, 4, False)
    assert high.item() < 8 and error(low, high) < error(*min_max_range(x))
    # it is the best of its candidates: brute force over the same 80
    full_low, full_high = min_max_range(x)
    brute = min(error(full_low * (1 - i / 100), full_high * (1 - i / 100)) for i in range(80))
    assert error(low, high) == pytest.approx(brute)
