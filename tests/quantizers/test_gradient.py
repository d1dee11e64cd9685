"""Quantized gradients: unbiased, never in place, and a clip ratio that goes where the condition says."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from policies import policy
from torch import nn

from quantlab.quantizers import gradient as gradient_module
from quantlab.quantizers.gradient import (
    GradientQuantizer,
    calibrate_gradients,
    max_abs,
    quantize_gradient,
    stochastic_codes,
    update_intervals,
)
from quantlab.quantizers.gradient_interval import DSGC, Fixed, LargeGradient, Piecewise, quantile_ratio, searched_ratio


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
        gradient_module, "uniform_noise", lambda like: (high.to(torch.uint8)[:, None], low.to(torch.uint8)[:, None])
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


class Network(nn.Module):
    """Two layers with quantized gradients, one of them called twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)
        self.first_gradient, self.second_gradient = (GradientQuantizer(4, large_gradient(alpha=0.2)) for _ in range(2))

    def forward(self, x):
        x = torch.relu(self.first_gradient(self.first(x)))
        return self.second_gradient(self.second(self.first_gradient(self.first(x))))

    @property
    def ratios(self) -> list[float]:
        return [self.first_gradient.interval.clip_ratio.item(), self.second_gradient.interval.clip_ratio.item()]


def test_no_optimizer_and_no_norm_sees_a_clip_ratio():
    """The script that everybody has: SGD over network.parameters(), clip_grad_norm_, zero_grad."""
    net, x = Network(), torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    assert len(list(net.parameters())) == 4 and {name for name, _ in net.named_buffers()} == {
        "first_gradient.interval.clip_ratio",
        "second_gradient.interval.clip_ratio",
    }
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    calibrate_gradients(net, lambda: net(x).square().mean())
    seen = [net.ratios]
    for _ in range(4):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1e9)
        assert norm.item() == pytest.approx(
            torch.cat([parameter.grad.flatten() for parameter in net.parameters()]).norm().item()
        )
        optimizer.step()
        assert net.ratios == seen[-1]
        update_intervals([net.first_gradient, net.second_gradient])
        seen.append(net.ratios)
    moves = torch.tensor(seen).diff(dim=0).abs()
    assert moves.max() == pytest.approx(1e-3, rel=1e-3) and all(
        move < 1e-6 or abs(move - 1e-3) < 1e-6 for move in moves.flatten()
    )


# the second: all of the compiler but its C++
@pytest.mark.parametrize("backend", [None, "aot_eager_decomp_partition"])
def test_copies_and_compiled_networks_learn_the_same_clip_ratios(backend):
    torch.manual_seed(0)
    net, x = Network(), torch.randn(64, 6)
    other = pickle.loads(pickle.dumps(net)) if backend is None else copy.deepcopy(net)
    other.load_state_dict(net.state_dict())
    run = other if backend is None else torch.compile(other, backend=backend, fullgraph=True)
    for _ in range(3):
        for _, called in ((net, net), (other, run)):
            torch.manual_seed(1)
            called(x).square().mean().backward()
            called(2 * x).square().mean().backward()
        for one, two in zip((net.first_gradient, net.second_gradient), (other.first_gradient, other.second_gradient)):
            assert one.interval.tally is not two.interval.tally and torch.equal(
                one.interval.tally.grad, two.interval.tally.grad
            )
        update_intervals([net.first_gradient, net.second_gradient])
        update_intervals([other.first_gradient, other.second_gradient])
        assert net.ratios == other.ratios
    assert min(net.ratios) < 1


def test_a_network_may_be_moved_halved_and_called_again_before_its_backward_pass():
    net, x = Network(), torch.randn(64, 6)
    net.first_gradient.interval.clip_ratio.fill_(0.7)
    net.to(torch.bfloat16)
    assert (
        net.ratios[0] == pytest.approx(0.7, abs=2e-3) and net.first_gradient.interval.clip_ratio.dtype == torch.float32
    )
    net(x.bfloat16()).square().mean().backward()
    assert net.first_gradient.interval.tally.grad[0] == 2 * 64 * 6
    net = Network()
    loss = net(x).square().mean()
    with torch.no_grad():
        for buffer in net.buffers():
            buffer.copy_(buffer.clone())  # as DDP does before another forward pass
    (loss + net(x).square().mean()).backward()


def test_gradients_of_functions_pass_it():
    net, x = Network(), torch.randn(8, 6)
    parameters = {name: parameter.detach() for name, parameter in net.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(net, parameters, (x,)).square().mean()

    torch.manual_seed(0)
    found = torch.func.grad(loss)(parameters)
    torch.manual_seed(0)
    net(x).square().mean().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_processes_agree_on_clip_ratios_and_count_together(tmp_path):
    script = Path(__file__).parents[1] / "two_processes.py"
    done = subprocess.run([sys.executable, script, tmp_path / "store"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"store{rank}.json").read_text()) for rank in range(2))
    assert first == second and len(first) == 6 and len({tuple(row) for row in first}) >= 3


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
    assert seen["clipped_share"].item() == pytest.approx(
        (gradient.abs() > 0.5 * largest).float().mean().item(), rel=1e-6
    )
    assert seen["large_gradient_error"].item() == pytest.approx(
        (error[gradient.abs().topk(300).indices].mean() / largest).item(), rel=1e-4
    )
    assert seen["histogram"].sum().item() == len(gradient)


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
