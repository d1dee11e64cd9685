"""Quantized gradients: unbiased, never in place, and a clip ratio that goes where the condition says."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from quantlab.quantizers.gradient import GradientQuantizer, calibrate_gradients, quantize_gradient, update_intervals
from quantlab.quantizers.gradient_interval import DSGC, Fixed, LargeGradient, Piecewise, build_interval, quantile_ratio, searched_ratio


def large_gradient(**changed) -> LargeGradient:
    return LargeGradient(**({"alpha": 1e-3, "beta": 1e-3, "low": 1e-3, "high": 1.0, "init": "quantile"} | changed))


def passed_back(quantizer: GradientQuantizer, gradient: torch.Tensor) -> torch.Tensor:
    """What the quantizer makes of `gradient` on its way back."""
    x = torch.zeros_like(gradient, requires_grad=True)
    quantizer(x).backward(gradient)
    return x.grad


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_unbiased_inside_the_interval_and_the_ends_beyond(bits):
    torch.manual_seed(0)
    values = torch.tensor([0.0, 0.013, -0.4, 0.77, -0.99, 1.0, -1.0, 1.3, -55.0])
    draws = 40_000
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

    compiled = gradients(torch.compile(both, backend="aot_eager_decomp_partition"))     # all of the compiler but its C++
    assert not torch.equal(*compiled)
    for got, wanted in zip(compiled, gradients(both)):
        assert torch.equal(got, wanted)


def test_an_all_zero_gradient_stays_zero_and_moves_nothing():
    quantizer = GradientQuantizer(4, large_gradient(alpha=0.5))
    assert (passed_back(quantizer, torch.zeros(1000)) == 0).all()
    before = quantizer.interval.clip_ratio.item()
    update_intervals([quantizer])
    assert quantizer.interval.clip_ratio.item() == before


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


SAMPLES = {
    "gaussian": lambda: torch.randn(300_000),
    "laplace": lambda: torch.distributions.Laplace(0.0, 1.0).sample((300_000,)),
    "student": lambda: torch.distributions.StudentT(4.0).sample((300_000,)),
}


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
@pytest.mark.parametrize("kind", SAMPLES)
def test_gamma_converges_to_the_quantile_from_above_and_below(kind, bits):
    torch.manual_seed(bits)
    gradient = SAMPLES[kind]()
    beta, target = 0.01, 1e-3 / (2**bits - 1)
    ordered = (gradient.abs() / gradient.abs().max()).sort(descending=True).values
    fixed_point = ordered[int(target * len(ordered))].item()    # beyond it lie at most the share `target`
    for start in (1.0, 0.02):
        quantizer = GradientQuantizer(bits, large_gradient(beta=beta))
        quantizer.interval.clip_ratio.data.fill_(start)
        for _ in range(int(abs(start - fixed_point) / beta) + 5):
            passed_back(quantizer, gradient)
            update_intervals([quantizer])
        assert quantizer.interval.clip_ratio.item() == pytest.approx(fixed_point, abs=1.5 * beta)


def test_the_quantile_is_the_fixed_point_and_the_search_overshoots_it():
    torch.manual_seed(0)
    ratios = SAMPLES["laplace"]().abs()
    ratios /= ratios.max()
    target = 1e-3 / 15
    gamma = quantile_ratio(ratios, target)
    assert (ratios > gamma).float().mean() <= target < (ratios >= gamma).float().mean()
    assert searched_ratio(ratios, target) < gamma - 0.05


def test_the_share_is_that_of_all_gradients_since_the_last_update():
    # alpha / (2^4 - 1) = 6.7e-5. The first clips 3e-4 of its own, the other 1e-5: together 11 of 230,000, which is less than the
    # target, though the mean of the three shares is more
    few, many = torch.cat([torch.ones(9), torch.zeros(29_991)]), torch.cat([torch.ones(1), torch.zeros(99_999)])
    quantizer = GradientQuantizer(4, large_gradient())
    quantizer.interval.clip_ratio.data.fill_(0.5)

    def moved(*gradients) -> float:
        before = quantizer.interval.clip_ratio.item()
        x = [torch.zeros_like(gradient, requires_grad=True) for gradient in gradients]
        for one, gradient in zip(x, gradients):
            quantizer(one).backward(gradient)
        update_intervals([quantizer])
        return round(quantizer.interval.clip_ratio.item() - before, 6)

    assert moved(few) == 0.001
    assert moved(many) == -0.001
    assert moved(few, many, many) == -0.001


def test_gamma_stays_where_a_batch_is_too_small_to_tell():
    gradient = torch.randn(1000)
    interval = large_gradient()
    quantizer = GradientQuantizer(8, interval)
    quantizer.choosing = True
    for _ in range(3):
        passed_back(quantizer, gradient)
        update_intervals([quantizer])
    assert interval.clip_ratio.item() == 1.0 and not interval.is_resolved


def error_of_the_largest(interval, gradient, bits=4, share=1e-3) -> float:
    quantizer = GradientQuantizer(bits, interval)
    quantizer.choosing = True
    error = (passed_back(quantizer, gradient) - gradient).abs()
    return error[gradient.abs().topk(int(share * gradient.numel())).indices].mean().item()


def test_large_gradients_fare_best_under_the_condition():
    torch.manual_seed(0)
    gradient = SAMPLES["student"]()
    ours = error_of_the_largest(large_gradient(), gradient)
    assert ours < 0.8 * error_of_the_largest(Fixed(1.0, 1e-3), gradient)
    assert ours < 0.9 * error_of_the_largest(DSGC(1, 1e-3), gradient)


def test_dsgc_turns_the_gradient_least():
    torch.manual_seed(0)
    gradient = SAMPLES["laplace"]()
    quantizer = GradientQuantizer(4, DSGC(1, 1e-3))
    quantizer.choosing = True
    passed_back(quantizer, gradient)
    chosen = quantizer.interval.clip_ratio.item()

    def cosine(gamma: float) -> float:
        end = gamma * gradient.abs().max()
        rounded = (gradient * 7 / end).round().clamp(-7, 7)
        return nn.functional.cosine_similarity(gradient, rounded, dim=0).item()

    assert cosine(chosen) == pytest.approx(max(cosine(i / 40) for i in range(1, 41)), abs=1e-6)
    assert 0.1 < chosen < 0.6


def test_piecewise_keeps_small_gradients_on_a_finer_grid():
    torch.manual_seed(0)
    gradient = torch.cat([torch.full((5000,), 0.01), torch.full((5000,), 0.6), torch.ones(1)])
    quantized = passed_back(GradientQuantizer(4, Piecewise(5, 1e-3)), gradient)
    narrow, wide = torch.unique(quantized[:5000]), torch.unique(quantized[5000:])
    torch.testing.assert_close(narrow, torch.tensor([0.0, 1.0]) / 3 / 32, atol=1e-6, rtol=0)
    torch.testing.assert_close(wide, torch.tensor([1.0, 2.0, 3.0]) / 3, atol=1e-6, rtol=0)
    assert quantized[:5000].mean().item() == pytest.approx(0.01, rel=0.05)
    assert quantized[5000:10_000].mean().item() == pytest.approx(0.6, rel=0.05)


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
    gradient = SAMPLES["laplace"]()
    quantizer = GradientQuantizer(4, Fixed(0.5, 1e-3))
    quantizer.observing = True
    quantized = passed_back(quantizer, gradient)
    seen, largest = quantizer.observed, gradient.abs().max()
    error = (quantized - gradient).abs()
    assert seen["error"].item() == pytest.approx((error.mean() / largest).item(), rel=1e-5)
    assert seen["clipped_share"].item() == pytest.approx((gradient.abs() > 0.5 * largest).float().mean().item(), rel=1e-6)
    assert seen["large_gradient_error"].item() == pytest.approx(
        (error[gradient.abs().topk(300).indices].mean() / largest).item(), rel=1e-4)
    assert seen["histogram"].sum().item() == len(gradient)


@pytest.mark.parametrize(("name", "kind", "ratio"), [
    ("min_max", Fixed, 1.0), ("fixed", Fixed, 0.6), ("large_gradient", LargeGradient, 1.0), ("dsgc", DSGC, 1.0),
    ("piecewise", Piecewise, 1.0)])
def test_every_interval_of_the_config(name, kind, ratio):
    section = SimpleNamespace(interval=name, alpha=1e-3, beta=1e-3, gamma_min=1e-3, gamma_max=1.0, init="quantile", gamma=0.6, period=10, shift=5)
    interval = build_interval(section)
    assert type(interval) is kind and interval.clip_ratio.item() == pytest.approx(ratio)
