"""The mean error of a quantized walk: taken out exactly, by every sampler; kept by what is saved."""

from types import SimpleNamespace

import pytest
import torch
from run_files import results
from tiny import PLAIN, TINY_ACCUQUANT, TINY_PTQ

from quantlab.diffusion.bias_correction import output_biases, shared_error
from quantlab.diffusion.rollout import walk
from quantlab.diffusion.samplers import State, build_sampler
from quantlab.diffusion.trajectories import Trajectories, compute_walks

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
GUIDED = ("model.class_conditional=true", "model.guidance.scale=2")
SAMPLERS = [("ddim", 0.5), ("ddpm", 0.0), ("euler", 0.0), ("dpm_solver", 0.0)]


def sampler_of(name, eta=0.0, prediction="epsilon", clip_sample=False):
    section = SimpleNamespace(name=name, steps=6, eta=eta, spacing="uniform", clip_sample=clip_sample)
    return build_sampler(ALPHAS, section, prediction)


def exact(condition):
    return lambda x, t, i: torch.tanh(0.3 * x)


def shifted(condition):
    """Wrong by a shift that differs from pixel to pixel and grows along the walk."""
    pixels = torch.linspace(-0.1, 0.2, 8).view(2, 2, 2)
    return lambda x, t, i: torch.tanh(0.29 * x) + pixels * (1 + i)


def corrected(biases):
    network = shifted({})
    return lambda x, t, i: network(x, t, i) + biases.get(i, 0)


@pytest.mark.parametrize("kind", ["channel", "pixel"])
@pytest.mark.parametrize(("name", "eta"), SAMPLERS)
def test_no_mean_error_is_left_at_the_end_of_any_group(name, eta, kind, tmp_path):
    sampler, shape = sampler_of(name, eta), (9, 2, 2, 2)
    compute_walks(tmp_path, exact, sampler, {}, shape, 3, [9] * 7, batch_size=4)
    reference, groups = Trajectories(tmp_path, sampler, {}), sampler.groups(4)
    biases = output_biases(shifted, reference, groups, kind, batch_size=4)
    assert list(biases) == [3, 5]
    assert biases[3].shape == ((2, 1, 1) if kind == "channel" else (2, 2, 2))
    noise = reference.noise_of(slice(None), "cpu")

    def mean_error(network, done):
        *_, state = walk(network, sampler, reference.state(0), noise, range(done))
        error = (state.x - reference.state(done).x).mean(0)
        return error.mean((1, 2)) if kind == "channel" else error

    for steps in groups:
        assert mean_error(shifted({}), steps.stop).abs().max() > 0.05
        assert mean_error(corrected(biases), steps.stop).abs().max() < 2e-6


def test_walks_that_leave_the_data_hardly_move_the_others():
    generator = torch.Generator().manual_seed(0)
    errors = 0.1 + 0.02 * torch.randn(50, 2, 4, 4, generator=generator)
    alone = shared_error(errors, "pixel")
    torch.testing.assert_close(alone, errors.double().mean(0))
    errors[7] = 30.0
    assert (errors.mean(0) - alone).abs().min() > 0.5
    assert (shared_error(errors, "pixel") - alone).abs().max() < 0.01
    assert shared_error(torch.zeros(3, 1, 2, 2), "channel").tolist() == [[[0.0]]]


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
@pytest.mark.parametrize(("name", "eta"), SAMPLERS)
def test_the_weight_of_an_output_is_the_derivative_of_its_step(name, eta, prediction):
    sampler = sampler_of(name, eta, prediction)
    memory = tuple(torch.full((1, 1, 1, 1), 0.2, dtype=torch.float64) for _ in range(sampler.memories))
    for i in range(len(sampler)):
        output = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
        step = sampler.step(i, State(torch.full_like(output, 0.7), memory), output, torch.ones_like(output))
        (derivative,) = torch.autograd.grad(step.x.sum(), output)
        assert sampler.output_weight(i) == pytest.approx(derivative.item(), rel=1e-9)
        assert sampler_of(name, eta, prediction, clip_sample=True).output_weight(i) == sampler.output_weight(i)


@pytest.mark.parametrize(
    "words",
    [
        (*TINY_ACCUQUANT, *PLAIN, "method.bias_correction=channel", "model.sampler.name=dpm_solver"),
        (
            "method=ptq",
            *TINY_PTQ,
            *PLAIN,
            "method.reconstruction=none",
            "model.class_conditional=true",
            "model.guidance.scale=2",
        ),
    ],
    ids=["accuquant-channel", "none-pixel-guided"],
)
def test_a_corrected_model_is_sampled_and_evaluated_as_the_run_reported(words, quantlab, tmp_path):
    run = tmp_path / "run"
    code, _, err = quantlab(*words, f"output_dir={run}")
    assert code == 0, err
    found = results(run)
    assert found["baseline"]["uncorrected"] != found["metrics"]
    code, _, err = quantlab("method=evaluate", f"method.run={run}", f"output_dir={tmp_path / 'evaluated'}")
    assert code == 0, err
    assert results(tmp_path / "evaluated")["metrics"] == found["metrics"]


def test_without_it_nothing_is_added(quantlab, tmp_path):
    code, _, err = quantlab(*TINY_ACCUQUANT, *PLAIN, "method.bias_correction=none", f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    found = results(tmp_path / "run")
    assert set(found["baseline"]) == {"full_precision", "ranges_only"}
    assert found["cost"]["network_evaluations"] == 3 * 6 + 11 * 12
