"""Quantized gradients and their intervals against the released code of LBT and related code: codes, traces, errors;
DSGC against an independent search.
"""

import math

import numpy as np
import pytest
import torch
from stored import normal, stored, uniform

from quantlab.quantizers import gradient_codes as module
from quantlab.quantizers.gradient import GradientQuantizer, update_intervals
from quantlab.quantizers.gradient_codes import quantize_gradient
from quantlab.quantizers.gradient_interval import (
    DSGC,
    Fixed,
    LargeGradient,
    Piecewise,
    learning_rate_scale,
    searched_ratio,
)

SHAPE = (4, 3, 5, 5)


@pytest.fixture
def noise(monkeypatch):
    """Makes cell k = floor(65536 uniform(seed, ...)) the noise of every gradient; the authors' is (k + 1/2) / 65536
    - 1/2, before round.
    """

    def use(seed: int, *shape: int) -> None:
        cell = (uniform(seed, *shape).double() * 65536).long()
        monkeypatch.setattr(
            module, "uniform_noise", lambda like: ((cell // 256).to(torch.uint8), (cell % 256).to(torch.uint8))
        )

    return use


def passed_back(quantizer: GradientQuantizer, gradient: torch.Tensor) -> torch.Tensor:
    x = torch.zeros_like(gradient, requires_grad=True)
    quantizer(x).backward(gradient)
    return x.grad


def test_codes_are_those_of_the_released_quantizer_for_the_same_noise(noise):
    found, gradient = stored("lbt_gradient_codes"), 1e-4 * normal(1, *SHAPE)
    noise(2, *SHAPE)
    for case in found["codes"].values():
        q = 2 ** (case["bits"] - 1) - 1
        quantized = passed_back(GradientQuantizer(case["bits"], Fixed(case["gamma"], 1e-3)), gradient)
        assert quantized.abs().max() <= case["end"] * (1 + 1e-6)
        assert (quantized.double() * q / case["end"]).round().int().flatten().tolist() == case["codes"]
    assert found["zero"] == 0 and (quantize_gradient(torch.zeros(SHAPE), torch.tensor(0.0), 4) == 0).all()


def test_two_ranges_and_channels_are_those_of_the_sibling_code(noise):
    found, gradient = stored("lbt_siblings_gradient"), 1e-4 * normal(1, *SHAPE)
    noise(2, *SHAPE)
    for bits, wanted in found["piecewise"].items():
        quantized = passed_back(GradientQuantizer(int(bits), Piecewise(5, 1e-3)), gradient)
        torch.testing.assert_close(quantized.flatten(), torch.tensor(wanted), atol=1e-10, rtol=1e-5)
    gradient = gradient * torch.tensor([1.0, 0.03, 7.0]).view(1, 3, 1, 1)
    for bits, wanted in found["channel"].items():
        quantized = passed_back(GradientQuantizer(int(bits), Fixed(0.8, 1e-3), per_channel=True), gradient)
        torch.testing.assert_close(quantized.flatten(), torch.tensor(wanted), atol=1e-10, rtol=1e-5)


def shaped(kind: str, seed: int, size: int) -> torch.Tensor:
    z = normal(seed, size)
    return {"normal": z, "squared": z * z.abs(), "cubed": z**3}[kind]


@pytest.mark.parametrize("name", stored("lbt_interval")["traces"])
def test_the_clip_ratio_follows_the_released_code_for_three_hundred_updates(name):
    case = stored("lbt_interval")["traces"][name]
    quantizer, trace = GradientQuantizer(case["bits"], LargeGradient(init="search")), []
    for t in range(301):
        quantizer.choosing = t == 0
        passed_back(quantizer, shaped(case["kind"], 1000 + t, case["size"]) * (1 + t / 100))
        if t == 0:
            quantizer.interval.tally.grad = None  # as after `calibrate_gradients`
        else:
            update_intervals([quantizer])
        if t % 20 == 0:
            trace.append(quantizer.interval.clip_ratio.item())
    assert trace == pytest.approx(case["clip_ratio"], abs=2e-6)


def test_the_search_ends_where_the_released_loop_does():
    for case in stored("lbt_interval")["searched"].values():
        gradient = shaped(case["kind"], 7, 300_000).abs()
        found = searched_ratio(gradient / gradient.max(), LargeGradient().target(case["bits"]))
        assert found == pytest.approx(case["clip_ratio"], abs=2e-6)


def test_targets_are_the_released_code_s():
    for bits, target in stored("lbt_interval")["targets"].items():
        assert LargeGradient().target(int(bits)) == pytest.approx(target, rel=1e-6)


def test_errors_are_those_that_the_released_code_logs(noise):
    gradient = shaped("squared", 11, 20_000)
    noise(12, 20_000)
    for case in stored("lbt_gradient_errors").values():
        quantizer = GradientQuantizer(case["bits"], Fixed(case["gamma"], 1e-3))
        quantizer.observing = True
        passed_back(quantizer, gradient)
        for name in ("error", "large_gradient_error", "clipped_share"):
            assert quantizer.observed[name].item() == pytest.approx(case[name], rel=1e-5)


def deviation(gradient: np.ndarray, gamma: float, bits: int) -> float:
    """d_c in float64, rounded to nearest."""
    q, end = 2 ** (bits - 1) - 1, gamma * np.abs(gradient).max()
    quantized = np.clip(np.round(gradient * q / end), -q, q)
    return 1 - gradient @ quantized / np.linalg.norm(gradient) / np.linalg.norm(quantized)


def golden_section(function, low: float, high: float) -> float:
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if function(left) < function(right) else (left, high)
    return (low + high) / 2


@pytest.mark.parametrize("kind, bits", [("normal", 4), ("squared", 4), ("squared", 8), ("cubed", 6)])
def test_dsgc_turns_the_gradient_as_little_as_the_paper_s_search(kind, bits):
    """Of 40 ratios; the paper's golden section may end between two of them."""
    gradient = shaped(kind, 21, 50_000)
    quantizer = GradientQuantizer(bits, DSGC(1, 1e-3))
    quantizer.choosing = True
    passed_back(quantizer, gradient)
    values = gradient.double().numpy()
    best = golden_section(lambda gamma: deviation(values, gamma, bits), 0.0, 1.0)
    chosen = quantizer.interval.clip_ratio.item()
    assert abs(chosen - best) < 1.2 / 40
    assert quantizer.interval.deviation.item() == pytest.approx(deviation(values, chosen, bits), abs=3e-6)
    assert quantizer.interval.deviation.item() < 1.1 * deviation(values, best, bits) + 1e-5


def test_the_learning_rate_falls_with_the_deviation_to_its_bound():
    # phi(d_c) = max(e^(-20 d_c), 0.1)
    assert learning_rate_scale(0.0, 20.0, 0.1) == 1 and learning_rate_scale(0.05, 20.0, 0.1) == pytest.approx(
        1 / math.e
    )
    assert learning_rate_scale(0.2, 20.0, 0.1) == 0.1
