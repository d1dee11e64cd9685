"""A clip ratio goes where the condition says; what it is compared with."""

import pytest
import torch
from gradient_quantizers import large_gradient, passed_back
from policies import policy
from torch import nn

from quantlab.quantizers.gradient import GradientQuantizer, update_intervals
from quantlab.quantizers.gradient_interval import DSGC, Fixed, LargeGradient, Piecewise, quantile_ratio, searched_ratio

SAMPLES = {
    "gaussian": lambda size=300_000: torch.randn(size),
    "laplace": lambda size=300_000: torch.distributions.Laplace(0.0, 1.0).sample((size,)),
    "student": lambda size=300_000: torch.distributions.StudentT(4.0).sample((size,)),
}


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
@pytest.mark.parametrize("kind", SAMPLES)
def test_gamma_converges_to_the_quantile_from_above_and_below(kind, bits):
    torch.manual_seed(bits)
    gradient = SAMPLES[kind](300_000 if bits == 8 else 80_000)  # at 8 bits 255,000 can tell
    beta, target = 0.01, 1e-3 / (2**bits - 1)
    ordered = (gradient.abs() / gradient.abs().max()).sort(descending=True).values
    fixed_point = ordered[int(target * len(ordered))].item()  # beyond it lie at most the share `target`
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
    # it never comes above: down to the end
    assert searched_ratio(torch.cat([torch.ones(1), torch.zeros(99)]), 0.5) <= 1e-3


def test_the_share_is_that_of_all_gradients_since_the_last_update():
    # alpha / (2^4 - 1) = 6.7e-5. The first clips 3e-4 of its own, the other 1e-5: together 11 of 230,000, which is less
    # than the target, though the mean of the three shares is more
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
    assert interval.clip_ratio.item() == 1.0 and quantizer.elements == 3000


def test_small_micro_batches_add_up_to_one_that_can_tell():
    # 16 bits and alpha 1/2: 131,070 elements resolve the share, 70,000 do not
    interval = large_gradient(alpha=0.5)
    quantizer, gradient = GradientQuantizer(16, interval), torch.cat([torch.ones(1), torch.full((69_999,), 0.1)])
    interval.clip_ratio.fill_(0.5)
    passed_back(quantizer, gradient)
    update_intervals([quantizer])
    assert interval.clip_ratio.item() == 0.5
    passed_back(quantizer, gradient)
    passed_back(quantizer, gradient)
    update_intervals([quantizer])
    assert interval.clip_ratio.item() == pytest.approx(0.501)


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


@pytest.mark.parametrize(
    ("name", "kind", "ratio"),
    [
        ("min_max", Fixed, 1.0),
        ("fixed", Fixed, 0.6),
        ("large_gradient", LargeGradient, 1.0),
        ("dsgc", DSGC, 1.0),
        ("piecewise", Piecewise, 1.0),
    ],
)
def test_every_interval_of_the_config(name, kind, ratio):
    own = {"bits": 4, "interval": name, "gamma": 0.6}
    interval = policy("lsq", gradient=own).gradient(nn.Linear(1, 1)).interval
    assert type(interval) is kind and interval.clip_ratio.item() == pytest.approx(ratio)
