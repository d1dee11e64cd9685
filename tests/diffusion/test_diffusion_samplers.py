"""Each sampler against diffusers' scheduler of that name, state by state, for every prediction; and the derivatives of
its memory.
"""

from types import SimpleNamespace

import pytest
import torch

from quantlab.diffusion.prediction import KINDS, image_and_noise, noised, target
from quantlab.diffusion.rollout import seeded_normal
from quantlab.diffusion.samplers import State, build_sampler

BETAS = {"beta_start": 1e-4, "beta_end": 0.02}
ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
THEIR_NAME = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}


def sampler(name="ddim", steps=20, eta=0.0, spacing="uniform", clip_sample=False, prediction="epsilon"):
    section = SimpleNamespace(name=name, steps=steps, eta=eta, spacing=spacing, clip_sample=clip_sample)
    return build_sampler(ALPHAS, section, prediction)


def toy_network(x, t):
    return torch.tanh(x * (0.3 + t / 2000)) - 0.1 * x.roll(1, -1)


def their_scheduler(name, spacing, clip_sample, prediction):
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

    common = BETAS | {
        "prediction_type": THEIR_NAME[prediction],
        "timestep_spacing": {"uniform": "leading"}.get(spacing, spacing),
    }
    if name == "ddim":
        return DDIMScheduler(clip_sample=clip_sample, set_alpha_to_one=True, **common)
    if name == "ddpm":
        return DDPMScheduler(clip_sample=clip_sample, **common)
    return EulerDiscreteScheduler(**common) if name == "euler" else DPMSolverMultistepScheduler(**common)


CASES = [
    (name, spacing, eta, clip)
    for name, spacing, eta, clip in [
        ("ddim", "uniform", 0.0, False),
        ("ddim", "uniform", 0.7, True),
        ("ddim", "trailing", 0.0, False),
        ("ddpm", "uniform", 0.0, False),
        ("ddpm", "uniform", 0.0, True),
        ("ddpm", "trailing", 0.0, False),
        ("euler", "uniform", 0.0, False),
        ("euler", "trailing", 0.0, False),
        ("dpm_solver", "trailing", 0.0, False),
    ]
]


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize(("name", "spacing", "eta", "clip_sample"), CASES)
def test_walks_as_in_diffusers_scheduler(name, spacing, eta, clip_sample, prediction):
    theirs = their_scheduler(name, spacing, clip_sample, prediction)
    theirs.set_timesteps(10)
    ours = sampler(name, 10, eta, spacing, clip_sample, prediction)
    assert list(ours.timesteps) == theirs.timesteps.tolist()
    state = ours.start(seeded_normal((3, 1, 4, 4), 0))
    x = seeded_normal((3, 1, 4, 4), 0) * float(theirs.init_noise_sigma)
    for i, t in enumerate(theirs.timesteps):
        torch.testing.assert_close(state.x, x, rtol=2e-4, atol=2e-4)
        z = seeded_normal(x.shape, 1 + i)
        given = theirs.scale_model_input(x, t)
        torch.testing.assert_close(ours.network_input(i, state.x), given, rtol=2e-4, atol=2e-4)
        more = {}
        if name == "ddim":
            more = {"eta": eta, "variance_noise": z if eta else None}
        elif name == "ddpm":  # it draws its noise itself
            more = {"generator": torch.Generator().manual_seed(i)}
            z = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        state = ours.step(i, state, toy_network(ours.network_input(i, state.x), int(t)), z)
        x = theirs.step(toy_network(given, int(t)), t, x, **more).prev_sample
    torch.testing.assert_close(state.x, x, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_prediction_is_taken_apart_into_its_image_and_noise(kind):
    x0, eps, alpha = (
        seeded_normal((2, 1, 3, 3), 0).double(),
        seeded_normal((2, 1, 3, 3), 1).double(),
        torch.tensor(0.3, dtype=torch.float64),
    )
    image, noise = image_and_noise(kind, target(kind, x0, eps, alpha), noised(x0, eps, alpha), 0.3)
    torch.testing.assert_close(image, x0)
    torch.testing.assert_close(noise, eps)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "dpm_solver"])
def test_a_perfect_prediction_is_followed_back_to_the_image(name):
    walk = sampler(name, 10, spacing="trailing")
    x0, eps = seeded_normal((2, 1, 3, 3), 0).double(), seeded_normal((2, 1, 3, 3), 1).double()
    state = State(noised(x0, eps, torch.tensor(walk.alphas[0])), walk.start(x0).memory)
    if name == "euler":
        state = State(state.x / walk.alphas[0] ** 0.5)
    for i in range(10):
        x = walk.network_input(i, state.x)
        state = walk.step(i, state, (x - walk.alphas[i] ** 0.5 * x0) / (1 - walk.alphas[i]) ** 0.5, torch.zeros_like(x))
    torch.testing.assert_close(state.x, x0)


@pytest.mark.parametrize("name", ["ddim", "dpm_solver"])
def test_memory_weights_are_the_derivatives(name):
    walk = sampler(name, 8, spacing="trailing")
    x, output = (seeded_normal((1, 1, 2, 2), part).double() for part in range(2))
    for i in range(8):
        memory = tuple(seeded_normal(x.shape, 5 + k).double().requires_grad_() for k in range(walk.memories))
        after = walk.step(i, State(x, memory), output).x
        assert len(walk.memory_weights(i)) == walk.memories
        for weight, tensor in zip(walk.memory_weights(i), memory):
            (derivative,) = (
                torch.autograd.grad(after.sum(), tensor, allow_unused=True) if after.requires_grad else (None,)
            )
            torch.testing.assert_close(
                torch.zeros_like(x) if derivative is None else derivative, torch.full_like(x, weight)
            )
