"""Codes in bytes and back; the integers of every quantizer are what it gives."""

import pytest
import torch
from policies import policy
from torch import nn

from quantlab.config.catalog import options
from quantlab.errors import RunError
from quantlab.quantizers.gradient import GradientQuantizer
from quantlab.quantizers.gradient_interval import LargeGradient
from quantlab.quantizers.integers import Grid, IntegerTensor, pack, unpack
from quantlab.quantizers.layer import SplitInput, SplitWeight
from quantlab.quantizers.rounding import LearnedRounding
from quantlab.quantizers.uniform_affine import GroupPointer, UniformAffineActivation, UniformAffineWeight
from quantlab.quantizers.weight_standardization import StandardizedWeightQuantizer, WeightStandardization

BITS = {"binary": (1,), "reactnet": (1,), "lsq": (2, 3, 8), "learned_clipping": (2, 3, 8), "uniform_affine": (2, 3, 8)}
NAMES = sorted(set(options("quantizer")) - {"none"})
CASES = [(name, bits) for name in NAMES for bits in BITS.get(name, (1, 2, 3, 8))]
ROUNDED = ("ewgs", "dsq")  # their forward pass adds an offset to what it has multiplied: equal up to float32's rounding


def test_codes_in_bytes_by_hand():
    codes = torch.tensor([[1, 2], [3, 15]], dtype=torch.uint8)
    assert pack(codes, 4).tolist() == [0x21, 0xF3] and pack(codes % 4, 2).tolist() == [0b11_11_10_01]
    assert pack(torch.tensor([-1, -8, 7], dtype=torch.int8), 4).tolist() == [0x8F, 0x07]
    # 001 010 011 111 from the lowest bit on
    assert pack(torch.tensor([1, 2, 3, 7], dtype=torch.uint8), 3).tolist() == [0b11_010_001, 0b111_0]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (8,), (3, 5, 3, 3), (1001,)])
def test_unpacking_is_the_inverse(bits, signed, shape):
    generator = torch.Generator().manual_seed(bits)
    low, kind = (-(2 ** (bits - 1)), torch.int8) if signed else (0, torch.uint8)
    codes = torch.randint(low, low + 2**bits, shape, generator=generator).to(kind)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (-(-codes.numel() * bits // 8),)
    back = unpack(packed, bits, shape, signed)
    assert torch.equal(back, codes) and back.dtype == kind and back.shape == shape


def test_what_does_not_fit_is_refused():
    with pytest.raises(RunError, match="got codes from 0 to 16, allowed with 4 bits: 0 to 15"):
        pack(torch.tensor([0, 16], dtype=torch.uint8), 4)
    with pytest.raises(RunError, match="allowed with 4 bits: -8 to 7"):
        pack(torch.tensor([-9], dtype=torch.int8), 4)
    with pytest.raises(RunError, match="got 3 bytes, allowed: the 2 of 4 codes of 4 bits"):
        unpack(torch.zeros(3, dtype=torch.uint8), 4, (2, 2), signed=False)


def test_values_beside_their_grid_are_refused():
    grid = Grid(torch.tensor(0.5), torch.tensor(0.0), signed=True)
    assert IntegerTensor.of(torch.tensor([-1.0, 0.5]), grid, 2).codes.tolist() == [-2, 1]
    with pytest.raises(RunError, match="4.00e-01 of a step beside its integer"):
        IntegerTensor.of(torch.tensor([-1.0, 0.3]), grid, 2)
    with pytest.raises(RunError, match="got codes from -2 to 2, allowed with 2 bits: -2 to 1"):
        IntegerTensor.of(torch.tensor([-1.0, 1.0]), grid, 2)
    quantizer = UniformAffineActivation(4)
    quantizer.observe()
    with pytest.raises(RunError, match="beside its integer"):
        quantizer.integers(torch.tensor([0.3]))


def assert_same(integers: IntegerTensor, wanted: torch.Tensor, name: str):
    bits, codes = integers.bits, integers.codes
    if name in ROUNDED:
        torch.testing.assert_close(integers.dequantize(), wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
    else:
        assert torch.equal(integers.dequantize(), wanted)
    signed = codes.dtype == torch.int8
    assert torch.equal(unpack(integers.pack(), bits, codes.shape, signed), codes)  # which fit into their bits
    assert codes.unique().numel() == wanted.unique().numel() if integers.axis is None else codes.unique().numel() > 1


@pytest.mark.parametrize("name, bits", CASES)
def test_integers_of_weights(name, bits):
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    quantizer = policy(name, bits).weight(weight.shape, bits)
    quantizer.calibrate(weight)
    assert_same(quantizer.integers(weight), quantizer(weight).detach(), name)


@pytest.mark.parametrize("name, bits", [case for case in CASES if case[0] != "uniform_affine"])
def test_integers_of_standardized_weights(name, bits):
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    quantizer = StandardizedWeightQuantizer(policy(name, bits).weight(weight.shape, bits), WeightStandardization(1e-5))
    quantizer.calibrate(weight)
    assert_same(quantizer.integers(weight), quantizer(weight).detach(), name)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name, bits", CASES)
def test_integers_of_inputs(name, bits, signed):
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    x = x if signed else x.relu()
    quantizer = policy(name, bits).activation(nn.Conv2d(3, 4, 3), bits)
    if name == "uniform_affine":
        quantizer.observe()
        quantizer(x)
        quantizer.choose_ranges()
    else:
        quantizer.calibrate(x)
    assert_same(quantizer.integers(x), quantizer(x).detach(), name)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["output_channel", "tensor"])
def test_codes_of_a_post_training_weight_are_given_as_they_are(symmetric, granularity):
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    nearest = UniformAffineWeight(weight.shape, 4, symmetric, granularity)
    nearest.calibrate(weight)
    integers = nearest.integers()
    assert integers.codes is nearest.codes and integers.axis == (0 if granularity == "output_channel" else None)
    assert integers.scale.shape == ((4,) if granularity == "output_channel" else ())
    fixed = LearnedRounding(nearest, weight, 1.1, -0.1, straight_through=True).fixed()
    assert_same(fixed.integers(), fixed(), "uniform_affine")


def test_inputs_have_the_integers_of_the_group_that_is_walked():
    pointer = GroupPointer(2)
    quantizer, x = UniformAffineActivation(8, pointer=pointer), torch.linspace(-1, 3, 50)
    with torch.no_grad():
        quantizer.log_scale[1].fill_(-4.0)
        quantizer.zero_point[1] = 60
    for pointer.index in (0, 1):
        assert_same(quantizer.integers(x), quantizer(x).detach(), "uniform_affine")
    assert quantizer.integers(x).zero_point == 60


def test_the_others_say_why_not():
    parts = [UniformAffineWeight(torch.Size((4, size)), 4) for size in (2, 3)]
    weight, inputs = SplitWeight(parts, [2, 3]), SplitInput([UniformAffineActivation(4) for _ in parts], [2, 3], 1)
    learned = LearnedRounding(parts[0], torch.randn(4, 2), 1.1, -0.1, straight_through=False)
    gradient = GradientQuantizer(4, LargeGradient())
    x = torch.randn(4, 5)
    for quantizer, reason in (
        (weight, "2 grids, one of each part"),
        (inputs, "2 grids, one of each part"),
        (learned, "rounding is still learned"),
        (gradient, "drawn anew in every backward pass"),
    ):
        with pytest.raises(RunError, match=reason) as caught:
            quantizer.integers(x)
        assert "\n" not in str(caught.value)
