"""The denoising step against diffusers' own, against its equation, and its special cases."""

from types import SimpleNamespace

import pytest
import torch

from quantlab.diffusion.rollout import Schedule, denoise, seeded_normal, spaced_timesteps, walk

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def schedule(steps=20, eta=0.0, spacing="uniform", clip_sample=False):
    return Schedule.build(ALPHAS, SimpleNamespace(steps=steps, eta=eta, spacing=spacing, clip_sample=clip_sample))


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("clip_sample", [False, True])
def test_equals_diffusers_where_both_apply(eta, clip_sample):
    from diffusers import DDIMScheduler
    theirs = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=clip_sample)
    theirs.set_timesteps(20)
    ours = schedule(eta=eta, clip_sample=clip_sample)
    assert list(ours.timesteps) == theirs.timesteps.tolist()
    for i, t in enumerate(theirs.timesteps):
        x, eps, z = (seeded_normal((3, 1, 4, 4), i, part) for part in range(3))
        expected = theirs.step(eps, t, x, eta=eta, variance_noise=z if eta else None).prev_sample
        torch.testing.assert_close(denoise(ours, i, x, eps, z), expected, rtol=1e-4, atol=1e-4)


def test_quadratic_spacing_as_q_diffusion_lists_it():
    ascending = spaced_timesteps(1000, 100, "quadratic")[::-1]
    assert ascending[:12] == [0, 0, 0, 0, 1, 2, 2, 3, 5, 6, 8, 9]
    assert ascending[-2:] == [783, 800] or ascending[-2:] == [783, 799]


def test_steps_that_go_nowhere_cost_nothing():
    walk_ = schedule(100, spacing="quadratic")
    calls = []

    def network(x, t, i):
        calls.append(i)
        return torch.zeros_like(x)

    states = list(walk(network, walk_, torch.ones(1, 1, 2, 2)))
    still = [i for i in range(100) if walk_.goes_nowhere(i)]
    assert len(states) == 100 and len(still) == 4
    assert calls == walk_.moving(range(100)) and len(calls) == 96
    assert torch.equal(states[still[0]], states[still[0] - 1])


def test_a_perfect_prediction_is_followed_back_to_the_image():
    # x_t = sqrt(abar) x0 + sqrt(1-abar) n with the true n given at every step: DDIM returns x0 exactly
    walk_ = schedule(10)
    x0, n = seeded_normal((2, 1, 3, 3), 0).double(), seeded_normal((2, 1, 3, 3), 1).double()
    x = walk_.alphas[0] ** 0.5 * x0 + (1 - walk_.alphas[0]) ** 0.5 * n
    *_, end = walk(lambda x, t, i: n, walk_, x)
    torch.testing.assert_close(end, x0)


def test_noise_variance_of_eta_one_is_ddpms():
    # sigma^2 = (1-abar')/(1-abar) * (1 - abar/abar')
    walk_ = schedule(20, eta=1.0)
    here, there = walk_.alphas[3], walk_.alphas[4]
    assert walk_.sigma(3) ** 2 == pytest.approx((1 - there) / (1 - here) * (1 - here / there))
    assert walk_.sigma(19) == 0


def test_groups_cover_the_walk_once():
    groups = schedule(20).groups(6)
    assert [len(group) for group in groups] == [6, 6, 6, 2]
    assert [i for group in groups for i in group] == list(range(20))


def test_seeded_normal_depends_on_all_its_seeds_only():
    assert torch.equal(seeded_normal((4,), 1, 2), seeded_normal((4,), 1, 2))
    assert not torch.equal(seeded_normal((4,), 1, 2), seeded_normal((4,), 2, 1))
