"""The sample that ranges are searched on is fair, whatever comes in which call and however it lies in memory."""

import numpy as np
import pytest
import torch

from quantlab.quantizers.functional import affine_parameters, lp_range
from quantlab.quantizers.reservoir import Reservoir
from quantlab.quantizers.uniform_affine import OBSERVED_VALUES, UniformAffineActivation


def test_fewer_values_than_places_are_all_kept():
    reservoir = Reservoir(10)
    reservoir.add(torch.tensor([[3.0, 1.0], [2.0, 5.0]]))
    reservoir.add(torch.tensor([4.0]))
    assert sorted(reservoir.values.tolist()) == [1, 2, 3, 4, 5]
    assert [end.item() for end in reservoir.ends] == [0, 5]  # widened to contain zero


def test_every_value_is_as_likely_as_any_other():
    # 3 of 12 values that come in calls of 1, 4, 2 and 5: each should be in a quarter of 1,500 samples (standard error
    # 0.0112)
    counts = torch.zeros(12)
    for seed in range(1500):
        reservoir = Reservoir(3)
        reservoir.random = np.random.default_rng(seed)
        for call in torch.arange(12.0).split([1, 4, 2, 5]):
            reservoir.add(call)
        assert len(reservoir.values.unique()) == 3
        counts[reservoir.values.long()] += 1
    assert (counts / 1500 - 0.25).abs().max() < 4 * 0.0112


def test_the_layout_of_a_tensor_does_not_bias_the_sample():
    # Four channels of a channels-last layer, 2^18 values: a stride of 16 or 128 would see the first channel alone
    x = torch.zeros(64, 32, 32, 4) + torch.tensor([0.0, 1.0, 2.0, 3.0])
    reservoir = Reservoir(2048)
    reservoir.add(x)
    # standard error 20
    assert torch.bincount(reservoir.values.long()).tolist() == pytest.approx([512] * 4, abs=4 * 20)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_extremes_bound_the_range_and_count_no_further(seed):
    # Calls with a long tail. Counting each call's two extremes as much as every sampled value gave 1.2 times this
    # scale.
    generator = torch.Generator().manual_seed(seed)
    calls = [
        torch.randn(2**15, generator=generator) * torch.rand(2**15, generator=generator).pow(-0.1) for _ in range(8)
    ]
    quantizer = UniformAffineActivation(6, shared=True)
    quantizer.observe()
    for x in calls:
        quantizer(x)
    assert len(quantizer.observed[0].values) == OBSERVED_VALUES
    quantizer.choose_ranges()
    everything = torch.cat(calls)[None]
    scale, _ = affine_parameters(*lp_range(everything, 6, False), 6, False)
    assert quantizer.log_scale[0].exp().item() == pytest.approx(scale.item(), rel=0.05)


def test_more_values_than_numpy_draws_among():
    reservoir = Reservoir(1000)
    reservoir.add(torch.zeros(1000))
    reservoir.seen = 3 * 10**9  # as of a large layer in many walks
    reservoir.add(torch.ones(10**6))  # one in 3,001 of them: a third of a value
    assert len(reservoir.values) == 1000 and reservoir.seen == 3 * 10**9 + 10**6
    assert reservoir.values.sum() <= 5
