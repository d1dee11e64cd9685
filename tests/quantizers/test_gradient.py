"""Quantized gradients: unbiased, and never in place."""

import pytest
import torch
from gradient_quantizers import large_gradient, passed_back
from torch import nn

from quantlab.quantizers import gradient_codes
from quantlab.quantizers.gradient import GradientQuantizer, calibrate_gradients, max_abs, update_intervals
from quantlab.quantizers.gradient_codes import quantize_gradient, stochastic_codes
from quantlab.quantizers.gradient_interval import DSGC, Fixed, Piecewise


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_unbiased_inside_the_interval_and_the_ends_beyond(bits):
    torch.manual_seed(0)
    values = torch.tensor([0.0, 0.013, -0.4, 0.77, -0.99, 1.0, -1.0, 1.3, -55.0])
    draws = 10_000
    quantized = quantize_gradient(values.repeat(draws, 1), torch.tensor(1.0), bits)
    step = 1 / (2 ** (bits - 1) - 1)
    assert torch.unique(quantized).numel() <= 2**bits - 1
    codes = quantized / step
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
    mean, deviation = quantized[:, 1:5].double().mean(0), quantized[:, 1:5].double().std(0)
    assert ((mean - values[1:5]).abs() <= 3 * deviation / draws**0.5 + 1e-6).all()
    assert (quantized[:, 0] == 0).all()
    for column, end in ((5, 1), (6, -1), (7, 1), (8, -1)):
        torch.testing.assert_close(quantized[:, column], torch.full((draws,), float(end)))


@pytest.fixture
def every_noise(monkeypatch):
    """Each of the 65,536 values of u once, along the first dimension."""
    high, low = torch.arange(65536) // 256, torch.arange(65536) % 256
    monkeypatch.setattr(
        gradient_codes, "uniform_noise", lambda like: (high.to(torch.uint8)[:, None], low.to(torch.uint8)[:, None])
    )


@pytest.mark.parametrize("bits", [2, 4, 8, 9, 12, 16])
def test_the_expectation_over_every_u_is_the_gradient(bits, every_noise):
    """Exactly, for fractions of 16 binary places and for integers, which no u moves; to 2^-17 of a step for all
    others.
    """
    q = 2 ** (bits - 1) - 1

    def expectation(values: torch.Tensor) -> torch.Tensor:
        codes = stochastic_codes(values.expand(65536, -1), torch.tensor(float(q)), bits).double()
        assert (codes == codes.round()).all()
        return codes.mean(0)

    places = min(16, 24 - bits)  # that float32 has left
    exact = torch.tensor(
        [0.0, 2.0**-places, 0.5, -0.25, -(2.0**-places), q - 2.0**-places, 2.0**-places - q, q - 0.75, 1 - q, q, -q]
    )
    assert torch.equal(expectation(exact), exact.double())
    codes = stochastic_codes(
        torch.arange(-q, q + 1, max(1, q // 50)).float().expand(65536, -1), torch.tensor(float(q)), bits
    )
    assert torch.equal(codes.amin(0), codes.amax(0))
    torch.manual_seed(bits)
    others = (torch.rand(200) * 2 - 1) * q
    away = expectation(others) - others.double()
    assert away.abs().max() <= 2.0**-17 + 2.0**-24
    if bits <= 4:
        assert (away > 0).any() and (away < 0).any()
    tiny = torch.tensor([1e-9, -1e-9, 0.0, -0.0])
    assert (stochastic_codes(tiny.expand(65536, -1), torch.tensor(float(q)), bits) == 0).all()


def test_compiled_layers_draw_noise_of_their_own_and_the_one_that_they_draw_uncompiled():
    # A compiler takes two equal calls for one, unless it knows that they draw
    first, second = GradientQuantizer(4, Fixed(1.0, 1e-3)), GradientQuantizer(4, Fixed(1.0, 1e-3))
    gradient = torch.linspace(-1, 1, 999)

    def both(x, y):
        return first(x) * gradient + second(y) * gradient

    def gradients(function):
        x, y = torch.zeros(999, requires_grad=True), torch.zeros(999, requires_grad=True)
        torch.manual_seed(0)
        function(x, y).sum().backward()
        return x.grad, y.grad

    # all of the compiler but its C++
    compiled = gradients(torch.compile(both, backend="aot_eager_decomp_partition"))
    assert not torch.equal(*compiled)
    for got, wanted in zip(compiled, gradients(both)):
        assert torch.equal(got, wanted)


def test_an_all_zero_gradient_stays_zero_and_moves_nothing():
    quantizer = GradientQuantizer(4, large_gradient(alpha=0.5))
    assert (passed_back(quantizer, torch.zeros(1000)) == 0).all()
    before = quantizer.interval.clip_ratio.item()
    update_intervals([quantizer])
    assert quantizer.interval.clip_ratio.item() == before


def test_an_empty_batch_comes_back_empty_and_moves_nothing():
    for interval in (large_gradient(alpha=0.5), Fixed(0.7, 1e-3), DSGC(1, 1e-3), Piecewise(5, 1e-3)):
        quantizer, before = GradientQuantizer(4, interval, per_channel=True), interval.clip_ratio.item()
        quantizer.choosing = quantizer.observing = True
        assert passed_back(quantizer, torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)
        update_intervals([quantizer])
        assert interval.clip_ratio.item() == before
    net = nn.Sequential(nn.Conv2d(2, 3, 3), GradientQuantizer(4, large_gradient()))
    net(torch.zeros(0, 2, 8, 8)).sum().backward()
    assert (net[0].weight.grad == 0).all()


def test_a_gradient_that_is_not_finite_counts_nothing():
    quantizer = GradientQuantizer(4, large_gradient(alpha=0.5))
    for value in (torch.inf, torch.nan):
        passed_back(quantizer, torch.cat([torch.randn(1000), torch.tensor([value])]))
        assert quantizer.interval.tally.grad.tolist() == [0, 0]


def test_a_gradient_that_is_not_a_number_stays_one():
    """So the next loss is not a number either, at which a run stops; the clip ratio, which outlives it, is sound."""
    gradient = torch.randn(1000)
    gradient[3] = torch.nan
    for interval in (large_gradient(alpha=0.5), Fixed(1.0, 1e-3)):
        quantizer = GradientQuantizer(4, interval)
        assert passed_back(quantizer, gradient)[3].isnan()
        update_intervals([quantizer])
        assert 0 < quantizer.interval.clip_ratio.item() <= 1


def test_a_residual_branch_receives_its_gradient_unchanged():
    # No normalization between the layer and the sum: autograd hands both branches one and the same tensor
    torch.manual_seed(0)
    conv, quantizer = nn.Conv2d(3, 3, 3, padding=1), GradientQuantizer(4, Fixed(0.5, 1e-3))
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    skip = x * 1.0
    skip.retain_grad()
    gradient = torch.randn(2, 3, 5, 5)
    kept = gradient.clone()
    (quantizer(conv(x.detach())) + skip).backward(gradient)
    assert torch.equal(gradient, kept) and torch.equal(skip.grad, kept) and torch.equal(x.grad, kept)


def test_an_in_place_activation_may_follow():
    torch.manual_seed(0)
    x, gradient = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    quantizer = GradientQuantizer(8, Fixed(1.0, 1e-3))
    torch.relu_(quantizer(x * 1.0)).backward(gradient)
    assert (x.grad[x < 0] == 0).all()
    torch.testing.assert_close(x.grad[x > 0], gradient[x > 0], atol=gradient.abs().max().item() / 100, rtol=0)


def test_weight_and_input_get_the_same_quantized_gradient():
    torch.manual_seed(0)
    linear, quantizer = nn.Linear(6, 4, bias=False), GradientQuantizer(3, Fixed(1.0, 1e-3))
    x = torch.randn(5, 6, requires_grad=True)
    out = linear(x)
    seen = []
    out.register_hook(seen.append)
    quantizer(out).backward(torch.randn(5, 4))
    torch.testing.assert_close(linear.weight.grad, seen[0].T @ x.detach())
    torch.testing.assert_close(x.grad, seen[0] @ linear.weight.detach())
    assert torch.unique(seen[0]).numel() <= 7


def test_channels_of_a_depthwise_layer_have_ranges_of_their_own():
    torch.manual_seed(0)
    sizes = torch.tensor([1.0, 1e-4, 0.0]).view(1, 3, 1, 1)
    gradient = torch.randn(4, 3, 20, 20) * sizes
    quantizer = GradientQuantizer(4, Fixed(1.0, 1e-3), per_channel=True)
    quantized = passed_back(quantizer, gradient)
    largest = max_abs(gradient, per_channel=True)
    assert largest.flatten().tolist() == pytest.approx(gradient.abs().amax((0, 2, 3)).tolist())
    codes = quantized * 7 / largest.clamp_min(1e-30)
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
    assert codes[:, 1].unique().numel() > 9 and (quantized[:, 2] == 0).all()
    quantizer.observing = True
    passed_back(quantizer, gradient)
    assert quantizer.observed["error"].isfinite() and quantizer.observed["histogram"].sum() == gradient.numel()
    # one clip ratio, from all channels that have a gradient
    interval = large_gradient(alpha=0.15)
    learned = GradientQuantizer(4, interval, per_channel=True)
    learned.choosing = True
    passed_back(learned, gradient)
    assert interval.clip_ratio.shape == () and interval.clip_ratio < 1
    assert interval.tally.grad.tolist() == [
        2 * 4 * 20 * 20,
        int((gradient.abs() > interval.clip_ratio * largest).sum()),
    ]
    dsgc = GradientQuantizer(4, DSGC(1, 1e-3), per_channel=True)
    dsgc.choosing = True
    quantized = passed_back(dsgc, gradient)
    assert 0 < dsgc.interval.deviation < 0.2
    piecewise = passed_back(GradientQuantizer(4, Piecewise(5, 1e-3), per_channel=True), gradient)
    assert (piecewise[:, 1] != 0).any()


def test_calibration_chooses_and_changes_nothing_else():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), GradientQuantizer(4, large_gradient(alpha=0.05)))
    x = torch.randn(16, 3, 10, 10)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    calibrate_gradients(net, lambda: (net(x) ** 3).mean())
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"2.interval.clip_ratio"} and all(p.grad is None for p in net.parameters())


def test_observed_numbers_are_their_definitions():
    torch.manual_seed(0)
    gradient = torch.distributions.Laplace(0.0, 1.0).sample((300_000,))
    quantizer = GradientQuantizer(4, Fixed(0.5, 1e-3))
    quantizer.observing = True
    quantized = passed_back(quantizer, gradient)
    seen, largest = quantizer.observed, gradient.abs().max()
    error = (quantized - gradient).abs()
    assert seen["error"].item() == pytest.approx((error.mean() / largest).item(), rel=1e-5)
    assert seen["clipped_share"].item() == pytest.approx(
        (gradient.abs() > 0.5 * largest).float().mean().item(), rel=1e-6
    )
    assert seen["large_gradient_error"].item() == pytest.approx(
        (error[gradient.abs().topk(300).indices].mean() / largest).item(), rel=1e-4
    )
    assert seen["histogram"].sum().item() == len(gradient)
