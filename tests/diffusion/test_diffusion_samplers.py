"""Each sampler against diffusers' scheduler of that name, state by state, for every prediction; and the derivatives of
its memory.
"""

from types import SimpleNamespace

import pytest
import torch

from quantlab.config.fields import files_in
from quantlab.diffusion.prediction import KINDS, image_and_noise, noised, signal_and_noise, target
from quantlab.diffusion.rollout import seeded_normal
from quantlab.diffusion.samplers import State, build_sampler
from quantlab.errors import RequestError

BETAS = {"beta_start": 1e-4, "beta_end": 0.02}
ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
THEIR_NAME = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}


def sampler(name="ddim", steps=20, eta=0.0, spacing="uniform", clip_sample=False, prediction="epsilon"):
    section = SimpleNamespace(name=name, steps=steps, eta=eta, spacing=spacing, clip_sample=clip_sample, shift=1.0)
    levels = torch.arange(1, 1001, dtype=torch.float64) / 1000 if prediction == "flow" else ALPHAS
    return build_sampler(levels, section, prediction)


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


@pytest.mark.parametrize("prediction", KINDS[:3])
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
    image, noise = image_and_noise(kind, target(kind, x0, eps, alpha), noised(x0, eps, alpha, kind), 0.3)
    torch.testing.assert_close(image, x0)
    torch.testing.assert_close(noise, eps)


DIFFUSION = ["ddim", "ddpm", "pndm", "euler", "euler_ancestral", "dpm_solver", "dpm_solver_sde", "unipc"]
FLOW = ["flow_euler", "dpm_solver", "dpm_solver_sde", "unipc"]
SOLVERS = [*((name, "epsilon") for name in DIFFUSION), *((name, "flow") for name in FLOW)]
WITH_MEMORY = [one for one in SOLVERS if sampler(*one[:1], 4, prediction=one[1], spacing="trailing").memories]


def test_every_sampler_is_tested():
    assert {name for name, _ in SOLVERS} == set(files_in("diffusion/samplers", "base"))


@pytest.mark.parametrize(("name", "prediction"), SOLVERS)
def test_a_perfect_prediction_is_followed_back_to_the_image(name, prediction):
    walk = sampler(name, 10, spacing="trailing", prediction=prediction)
    x0, eps = seeded_normal((2, 1, 3, 3), 0).double(), seeded_normal((2, 1, 3, 3), 1).double()
    state = State(noised(x0, eps, torch.tensor(walk.levels[0]), prediction), walk.start(x0).memory)
    if name.startswith("euler"):
        state = State(state.x / walk.levels[0] ** 0.5)
    for i in range(len(walk)):
        x = walk.network_input(i, state.x)
        if name == "pndm" and i == 1:  # at the end of step 0, where the next level begins
            output = eps
        else:
            signal, noise = signal_and_noise(prediction, walk.levels[i])
            perfect = (x - signal * x0) / noise
            output = perfect if prediction == "epsilon" else perfect - x0
        state = walk.step(i, state, output, torch.zeros_like(x))
    torch.testing.assert_close(state.x, x0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "prediction"), WITH_MEMORY)
def test_memory_weights_are_the_derivatives_of_all_later_steps(name, prediction):
    walk = sampler(name, 8, spacing="trailing", prediction=prediction)
    x, output, z = (seeded_normal((1, 1, 2, 2), part).double() for part in range(3))
    for i in range(len(walk)):
        memory = tuple(seeded_normal(x.shape, 5 + k).double().requires_grad_() for k in range(walk.memories))
        state, total = State(x, memory), sum(one.sum() * 0 for one in memory)
        for later in range(i + 1, len(walk)):
            state = walk.step(later, State(state.x.detach(), state.memory), output, z)
            total = total + state.x.sum()
        derivatives = torch.autograd.grad(total, memory)
        assert len(walk.memory_weights(i)) == walk.memories
        for weight, derivative in zip(walk.memory_weights(i), derivatives):
            torch.testing.assert_close(derivative, torch.full_like(x, weight), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_weights_of_plms_over_a_whole_walk_sum_to_those_of_one_output(kind):
    """With the history counted a step weighs about as much as DDIM's, without it 2.29 times that."""
    walk, plain = sampler("pndm", 30, prediction=kind), sampler("ddim", 30, prediction=kind)
    i = 15
    own = walk.output_weight(i) / plain.output_weight(i - 1)
    whole = own + walk.memory_weights(i)[0] / plain.output_weight(i - 1)
    assert own == pytest.approx(55 / 24, rel=1e-6) and whole == pytest.approx(1.0, abs=0.1)


def test_shift_moves_the_steps_of_a_flow_towards_the_noise():
    section = SimpleNamespace(name="flow_euler", steps=4, eta=0.0, spacing="trailing", clip_sample=False, shift=3.0)
    walk = build_sampler(torch.arange(1, 1001, dtype=torch.float64) / 1000, section, "flow")
    assert walk.levels == pytest.approx([1, 0.9, 0.75, 0.5]) and walk.ends == pytest.approx([0.9, 0.75, 0.5, 0])
    assert walk.timesteps == pytest.approx([1000, 900, 750, 500])
    assert [walk.output_weight(i) for i in range(4)] == pytest.approx([-0.1, -0.15, -0.25, -0.5])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "pndm", "clip_sample": True}, "type model.sampler.clip_sample=false"),
        ({"name": "unipc", "steps": 100, "spacing": "quadratic"}, "uses earlier steps, allowed: uniform, trailing"),
        ({"name": "ddpm", "prediction": "flow", "spacing": "trailing"}, "type model.sampler.name=flow_euler"),
        ({"name": "flow_euler", "prediction": "flow"}, "a flow's walk starts from pure noise, allowed: trailing, lin"),
    ],
)
def test_walks_that_cannot_be_are_refused(values, said):
    with pytest.raises(RequestError, match=said):
        sampler(**values)


def test_zero_terminal_snr():
    alphas = torch.cat([ALPHAS[:-1], torch.zeros(1, dtype=torch.float64)])
    for name in DIFFUSION:
        section = SimpleNamespace(name=name, steps=5, eta=0.0, spacing="trailing", clip_sample=False)
        walk = build_sampler(alphas, section, "v")
        state = walk.start(seeded_normal((2, 1, 3, 3), 0))
        for i in range(len(walk)):
            z = seeded_normal((2, 1, 3, 3), 1, i)
            state = walk.step(i, state, toy_network(walk.network_input(i, state.x), walk.timesteps[i]), z)
        assert state.x.isfinite().all() and state.x.abs().max() < 20, name
