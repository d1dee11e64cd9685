"""Every quantizer, compiled and not: equal outputs and gradients, where a version of torch or a compiler could decide
otherwise.

Those are zero, the ends of the clip, and the middle between two levels. Scales are such that these points are hit
exactly.
"""

from pathlib import Path

import pytest
import torch
from policies import policy
from torch import Tensor, nn

import quantlab.conf
from quantlab.quantizers import adaround
from quantlab.quantizers.fixed_point import EPS
from quantlab.quantizers.uniform_affine import UniformAffineActivation
from quantlab.quantizers.weight_standardization import StandardizedWeightQuantizer, WeightStandardization

TRAINED = {
    "fixed_point": {},
    "lsq": {},
    "learned_clipping": {},
    "ewgs": {"delta": 0.25},
    "dsq": {},
    "binary": {"weight": 1},
    "reactnet": {"weight": 1},
}
LEAST = {"lsq": 2, "learned_clipping": 2}
FEW, ALL = (1, 2), (1, 2, 3, 4, 8)  # a compiler takes its time for each
NAMES = [*TRAINED, "uniform_affine", "adaround", "standardized"]
LAYER = nn.Linear(1, 1)


def test_every_quantizer_is_here():
    files = (path.stem for path in Path(quantlab.conf.__file__).parent.glob("quantizer/*.yaml"))
    assert {name for name in files if name != "none" and not name.startswith("_")} <= set(NAMES)


class Case(nn.Module):
    """A quantizer, inputs `x`, and where among them the ends of its clip are (`low`, `high`; None: it has none, or
    they get no gradient).
    """

    def __init__(self, quantizer: nn.Module, x: Tensor, low: float | None = None, high: float | None = None):
        super().__init__()
        self.quantizer, self.low, self.high = quantizer, low, high
        self.x = nn.Parameter(x)

    def forward(self) -> Tensor:
        return self.quantizer(self.x)


def points(low: float, high: float, step: float) -> Tensor:
    """Every half level of [low, high], its neighbours in float32, and what lies beyond the ends: [N, 1]."""
    halves = torch.arange(2 * low / step - 3, 2 * high / step + 4) * (step / 2)
    halves = torch.cat([halves, torch.zeros(1)])
    return torch.cat(
        [
            halves,
            halves.nextafter(halves + 1),
            halves.nextafter(halves - 1),
            torch.linspace(2 * low - 1, 2 * high + 1, 50),
        ]
    )[:, None]


@torch.no_grad()
def put_on_the_grid(quantizer: nn.Module, signed: bool) -> tuple[float, float, float]:
    """Give the quantizer scales under which ends and half levels are exact. Returns both ends and the distance of
    levels.
    """
    bits = quantizer.bits
    if hasattr(quantizer, "upper"):  # ewgs, dsq
        quantizer.lower.fill_(-1.0)
        quantizer.upper.fill_(-1 + 0.5 * (2**bits - 1))
        return -1.0, quantizer.upper.item(), 0.5
    if hasattr(quantizer, "clipping_value"):
        highest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        quantizer.clipping_value.fill_(0.5 * highest)
        return -0.5 * highest if signed else 0.0, 0.5 * highest, 0.5
    if hasattr(quantizer, "scale"):  # fixed_point, lsq
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
        if type(quantizer).__name__.startswith("LSQ"):
            quantizer.scale.fill_(0.5)
            return 0.5 * low, 0.5 * high, 0.5
        quantizer.scale.fill_(1 - EPS)
        if bits == 1:
            return (-1.0, 1.0, 1.0) if signed else (0.0, 1.0, 1.0)
        gamma = 2.0 ** (bits - 1) if signed else 2.0**bits
        return low / gamma, high / gamma, 1 / gamma
    if hasattr(quantizer, "beta"):  # reactnet's inputs: 2 - 2|x| is zero at both ends
        quantizer.beta.fill_(0.25)
        return -0.75, 1.25, 1.0
    return -1.0, 1.0, 1.0  # weights of one bit


def trained_cases(name: str, all_bits: tuple[int, ...]) -> list[Case]:
    own, cases = policy(name, **TRAINED[name]), []
    for bits in (
        bits for bits in all_bits if LEAST.get(name, 1) <= bits and (bits == 1 or name not in ("binary", "reactnet"))
    ):
        quantizer = own.weight(LAYER.weight.shape, bits)
        low, high, step = put_on_the_grid(quantizer, signed=True)
        cases.append(Case(quantizer, points(low, high, step).T.contiguous(), low, high))  # one channel
        for signed in (True, False):
            quantizer = own.activation(LAYER, bits)
            quantizer.is_signed = signed
            low, high, step = put_on_the_grid(quantizer, signed)
            ends = (None, None) if hasattr(quantizer, "beta") else (low, high)
            cases.append(Case(quantizer, points(low, high, step), *ends))
    return cases


def affine_cases(all_bits: tuple[int, ...]) -> list[Case]:
    """uniform_affine's inputs: it clips what is rounded, so that half a level beyond an end belongs to it."""
    cases = []
    for bits in all_bits[1:]:
        for symmetric, zero_point in ((True, 0.0), (False, 1.0)):
            quantizer = UniformAffineActivation(bits, symmetric)
            quantizer.zero_point.fill_(zero_point)  # the scale is e^0
            low, high = quantizer.q_min - zero_point, quantizer.q_max - zero_point
            cases.append(Case(quantizer, points(low, high, 1.0), low, high))
    return cases


class Rounding(nn.Module):
    def forward(self, rounding: Tensor) -> Tensor:
        return adaround.rectified_sigmoid(rounding)


def adaround_cases(*_) -> list[Case]:
    """V of h(V) = 0 and 1, and its neighbours."""
    ends = adaround.inverse_rectified_sigmoid(torch.tensor([0.0, 1.0]))
    assert adaround.rectified_sigmoid(ends).tolist() == [0.0, 1.0]
    near = torch.cat([ends, ends.nextafter(ends + 1), ends.nextafter(ends - 1), torch.linspace(-4, 4, 81)])
    return [Case(Rounding(), near)]


def standardized_cases(*_) -> list[Case]:
    generator, cases = torch.Generator().manual_seed(0), []
    for name in ("fixed_point", "lsq", "ewgs", "reactnet"):
        weight = torch.randn(4, 3, 3, 3, generator=generator)
        quantizer = StandardizedWeightQuantizer(
            policy(name, **TRAINED[name]).weight(weight.shape, 1 if name == "reactnet" else 2),
            WeightStandardization(eps=1e-5),
        )
        quantizer.calibrate(weight)
        cases.append(Case(quantizer, weight))
    return cases


def cases_of(name: str, all_bits: tuple[int, ...] = ALL) -> list[Case]:
    others = {"uniform_affine": affine_cases, "adaround": adaround_cases, "standardized": standardized_cases}
    return others[name](all_bits) if name in others else trained_cases(name, all_bits)


class All(nn.Module):
    """All cases in one graph."""

    def __init__(self, cases: list[Case]):
        super().__init__()
        self.cases = nn.ModuleList(cases)

    def forward(self) -> list[Tensor]:
        return [case() for case in self.cases]


def results(cases: list[Case], backend: str | None) -> list[tuple[Tensor, list[Tensor | None]]]:
    """Of every case its output, and the gradients of its input and its parameters."""
    network = All(cases)
    network.zero_grad(set_to_none=True)
    torch._dynamo.reset()
    outputs = (network if backend is None else torch.compile(network, backend=backend, fullgraph=True, dynamic=False))()
    generator = torch.Generator().manual_seed(1)
    torch.autograd.backward(outputs, [torch.randn(out.shape, generator=generator) + 3 for out in outputs])
    return [
        (out.detach(), [parameter.grad for parameter in case.parameters()])
        for case, out in zip(network.cases, outputs, strict=True)
    ]


def compare(cases: list[Case], backend: str) -> None:
    eager, compiled = results(cases, None), results(cases, backend)
    for (out, gradients), (other_out, other_gradients) in zip(eager, compiled, strict=True):
        torch.testing.assert_close(other_out, out)
        assert torch.equal(other_gradients[0] == 0, gradients[0] == 0)  # passed and stopped at the same points
        for ours, theirs in zip(other_gradients, gradients, strict=True):
            if theirs is not None:
                torch.testing.assert_close(
                    ours, theirs, rtol=1e-5, atol=1e-6 * max(1.0, float(gradients[0].abs().sum()))
                )


@pytest.mark.parametrize("name", NAMES)
def test_eager_and_traced_gradients_are_equal(name):
    compare(cases_of(name, FEW), "aot_eager_decomp_partition")  # all of the compiler but its C++


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_eager_and_compiled_gradients_are_equal(name):
    compare(cases_of(name), "inductor")


@pytest.mark.parametrize("name", [*TRAINED, "uniform_affine"])
def test_gradients_pass_at_both_ends_and_nowhere_beyond(name):
    for case in cases_of(name):
        ((_, (gradient, *_)),) = results([case], None)
        if case.low is None:
            continue
        x, margin = case.x.detach(), 0.5 if name == "uniform_affine" else 0.0
        is_end = (x == case.low) | (x == case.high)
        beyond = torch.maximum(case.low - margin - x, x - case.high - margin)
        assert is_end.sum() >= 2 and (gradient[is_end] != 0).all()
        assert (gradient[beyond > 1e-6] == 0).all() and (gradient[beyond < -1e-6] != 0).all()


def test_learned_rounding_stops_at_both_ends():
    """Unlike the others: what lies outside the range of the codes starts there and stays."""
    (case,) = adaround_cases()
    ((h, (gradient,)),) = results([case], None)
    assert torch.equal(gradient != 0, (h > 0) & (h < 1)) and gradient[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", TRAINED)
def test_levels_that_are_counted_are_those_of_the_output_half_way_too(name):
    for case in cases_of(name):
        if hasattr(case.quantizer, "discrete"):
            out, levels = case.quantizer(case.x).detach().flatten(), case.quantizer.discrete(case.x).flatten()
            order = levels.unique()
            assert len(out.unique()) == len(order)
            torch.testing.assert_close(out.unique()[torch.searchsorted(order, levels)], out, rtol=0, atol=0)
