"""Walks: their timesteps, their groups, skipped steps, and guidance."""

from types import SimpleNamespace

import pytest
import torch

from quantlab.diffusion.conditioning import Guidance
from quantlab.diffusion.guidance import guided
from quantlab.diffusion.rollout import SeededNormal, seeded_normal, walk
from quantlab.diffusion.samplers import build_sampler
from quantlab.diffusion.samplers.base import spaced_timesteps

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def ddim(steps=20, eta=0.0, spacing="uniform"):
    return build_sampler(ALPHAS, SimpleNamespace(name="ddim", steps=steps, eta=eta, spacing=spacing, clip_sample=False))


def test_quadratic_spacing_as_q_diffusion_lists_it():
    ascending = spaced_timesteps(1000, 100, "quadratic")[::-1]
    assert ascending[:12] == [0, 0, 0, 0, 1, 2, 2, 3, 5, 6, 8, 9]
    assert ascending[-2:] == [783, 800] or ascending[-2:] == [783, 799]


def test_skipped_steps_cost_nothing():
    sampler = ddim(100, spacing="quadratic")
    calls = []

    def network(x, t, i):
        calls.append(i)
        return torch.zeros_like(x)

    states = list(walk(network, sampler, sampler.start(torch.ones(1, 1, 2, 2)), lambda i: None))
    still = [i for i in range(100) if sampler.is_skipped(i)]
    assert len(states) == 100 and len(still) == 4
    assert calls == sampler.active(range(100)) and len(calls) == 96
    assert torch.equal(states[still[0]].x, states[still[0] - 1].x)


def test_noise_variance_of_eta_one_is_ddpms():
    # sigma^2 = (1-abar')/(1-abar) * (1 - abar/abar')
    sampler = ddim(eta=1.0)
    here, there = sampler.levels[3], sampler.ends[3]
    assert sampler.noise_scale(3) ** 2 == pytest.approx((1 - there) / (1 - here) * (1 - here / there))
    assert sampler.noise_scale(19) == 0


def test_groups_cover_the_walk_once():
    groups = ddim().groups(6)
    assert [len(group) for group in groups] == [6, 6, 6, 2]
    assert [i for group in groups for i in group] == list(range(20))


def test_seeded_normal_depends_on_all_its_seeds_only():
    assert torch.equal(seeded_normal((4,), 1, 2), seeded_normal((4,), 1, 2))
    assert not torch.equal(seeded_normal((4,), 1, 2), seeded_normal((4,), 2, 1))


@pytest.mark.parametrize("batched", [True, False])
def test_guidance_by_hand(batched):
    rows = []

    def conditional(condition):
        def network(x, t, i):
            rows.append(len(x))
            return x + condition["class_labels"].float()[:, None]

        return network

    network = guided(conditional, Guidance(3.0, batched), {"class_labels": torch.tensor([10])})(
        {"class_labels": torch.tensor([1, 2])}
    )
    # 10 + 3 (1 - 10) and 10 + 3 (2 - 10), besides x
    assert network(torch.zeros(2, 1), 0, 0).flatten().tolist() == [-17.0, -14.0]
    assert rows == ([4] if batched else [2, 2])
    assert guided(conditional, Guidance(1.0), {}) is conditional


def test_of_an_output_only_some_channels_are_guided():
    def conditional(condition):
        return lambda x, t, i: x + condition["class_labels"].float()[:, None]

    network = guided(conditional, Guidance(3.0, channels=1), {"class_labels": torch.tensor([10])})(
        {"class_labels": torch.tensor([1])}
    )
    assert network(torch.zeros(1, 2), 0, 0).tolist() == [[-17.0, 1.0]]


@pytest.mark.parametrize("shape", [(37, 1, 3, 3), (20, 2, 4, 4), (35, 1, 1, 1), (7, 1, 1, 2), (19,), (1, 3, 5)])
@pytest.mark.parametrize("size", [1, 5, 40])
def test_rows_of_noise_are_those_of_the_whole_bit_for_bit(shape, size):
    whole, rows = seeded_normal(shape, 3, 1), SeededNormal(shape, 3, 1)
    for first in (*range(0, shape[0], size), 0, shape[0] // 2):
        part = slice(first, first + size)
        assert torch.equal(rows[part], whole[part])
