"""Walks as a scheduler file says, against diffusers' scheduler itself, state by state: every class that is simulated,
every prediction, spacing and key of it; and one line for what is not.
"""

import inspect
from types import SimpleNamespace

import diffusers
import pytest
import torch

from quantlab.diffusion.rollout import seeded_normal
from quantlab.errors import RequestError
from quantlab.models.scheduler_sampler import OTHER_KEYS, SIMULATED, sampler_of, scheduler_walk

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers', of numpy 2

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
SPACINGS = [{"timestep_spacing": spacing} for spacing in ("leading", "trailing", "linspace")]
PREDICTIONS = [{"prediction_type": kind} for kind in ("epsilon", "v_prediction", "sample")]
SIGMAS = [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SDE = {"algorithm_type": "sde-dpmsolver++"}
OFFSET = {"steps_offset": 1, "set_alpha_to_one": False, **STABLE_DIFFUSION}
CASES = {
    "DDIMScheduler": [
        *({"clip_sample": False, **one} for one in (*SPACINGS, *PREDICTIONS, OFFSET, ZERO_SNR)),
        {"clip_sample_range": 0.7},
    ],
    "DDIMParallelScheduler": [{}],
    "DDPMScheduler": [
        *({"clip_sample": False, **one} for one in (*SPACINGS, *PREDICTIONS, ZERO_SNR)),
        *({"variance_type": one} for one in ("fixed_small_log", "fixed_large")),
        {"variance_type": "fixed_large", "timestep_spacing": "trailing", "clip_sample_range": 2.0},
    ],
    "DDPMParallelScheduler": [{}],
    "PNDMScheduler": [{"skip_prk_steps": True, **one} for one in (*SPACINGS, *PREDICTIONS[:2], OFFSET)],
    "DPMSolverMultistepScheduler": [
        *(one | more for one in (*SPACINGS, *PREDICTIONS, ZERO_SNR, FLOW) for more in ({}, SDE)),
        *SIGMAS,
        {"use_lu_lambdas": True},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
        {"solver_order": 1},
        {"solver_order": 1, **SDE},
        {"solver_order": 3},
        {"solver_order": 3, "final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"solver_type": "heun"},
        {"solver_type": "heun", **SDE},
        {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1, "variance_type": "learned_range"},
    ],
    "UniPCMultistepScheduler": [
        *SPACINGS,
        *PREDICTIONS,
        ZERO_SNR,
        FLOW,
        *SIGMAS,
        {"solver_order": 1},
        {"solver_order": 3},
        # with bh1 diffusers' own last step to no noise is NaN
        {"solver_order": 3, "solver_type": "bh1", "prediction_type": "v_prediction", "final_sigmas_type": "sigma_min"},
        {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        {"disable_corrector": [0, 1, 5]},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False},
    ],
    "EulerDiscreteScheduler": [
        *SPACINGS,
        *PREDICTIONS,
        ZERO_SNR,
        *SIGMAS,
        {"final_sigmas_type": "sigma_min"},
        {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True},
    ],
    "EulerAncestralDiscreteScheduler": [*SPACINGS, *PREDICTIONS[:2], ZERO_SNR],
    "FlowMatchEulerDiscreteScheduler": [
        {},
        {"shift": 3.0},
        *({"shift": 3.0, **one} for one in SIGMAS),
        {"shift_terminal": 0.1},
        {"stochastic_sampling": True},
    ],
}
FLAT = [(name, config) for name, configs in CASES.items() for config in configs]


def toy_network(x, t):
    return torch.tanh(x * (0.3 + float(t) / 2000)) - 0.1 * x.roll(1, -1)


def follow(theirs, walk, steps, eta=0.0, network=toy_network):
    """Both walks in `steps` steps, compared before and after each; theirs has its timesteps set."""
    assert list(walk.timesteps) == [pytest.approx(t) for t in theirs.timesteps.tolist()]
    start = seeded_normal((3, 1, 4, 4), 0)
    state, x = walk.start(start), start * float(getattr(theirs, "init_noise_sigma", 1.0))
    for i, t in enumerate(theirs.timesteps):
        torch.testing.assert_close(state.x, x, rtol=1e-4, atol=1e-4)
        given = theirs.scale_model_input(x, t) if hasattr(theirs, "scale_model_input") else x
        torch.testing.assert_close(walk.network_input(i, state.x), given, rtol=1e-4, atol=1e-4)
        # all take their noise from a generator
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        more = {"eta": eta} if "eta" in inspect.signature(theirs.step).parameters else {}
        if "generator" in inspect.signature(theirs.step).parameters:
            more["generator"] = torch.Generator().manual_seed(i)
        if not walk.is_skipped(i):
            state = walk.step(i, state, network(walk.network_input(i, state.x), t), z)
        x = theirs.step(network(given, t), t, x, **more).prev_sample
    torch.testing.assert_close(state.x, x, rtol=1e-4, atol=1e-4)


def theirs_and_ours(name, config, steps, eta=0.0, **timesteps):
    config = {"_class_name": name, **config}
    theirs = getattr(diffusers, name).from_config(config)
    theirs.set_timesteps(steps, **timesteps)
    return theirs, scheduler_walk(config, "here", steps, eta, **timesteps)


@pytest.mark.parametrize("steps", [6, 17])
@pytest.mark.parametrize(("name", "config"), FLAT, ids=lambda one: one if isinstance(one, str) else str(one))
def test_every_state_is_that_of_diffusers_scheduler(name, config, steps):
    follow(*theirs_and_ours(name, config, steps), steps)


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_eta_is_an_argument_of_ddims_steps(eta):
    follow(*theirs_and_ours("DDIMScheduler", {"clip_sample": True}, 8, eta), 8, eta)


def test_a_pipeline_may_give_the_sigmas_of_a_flow():
    # as FluxPipeline: linspace(1, 1 / steps), shifted by an amount that depends on the image's size
    flux = {"use_dynamic_shifting": True, "shift": 3.0}
    sigmas = torch.linspace(1, 1 / 7, 7).tolist()
    theirs, walk = theirs_and_ours("FlowMatchEulerDiscreteScheduler", flux, 7, sigmas=sigmas, mu=0.9)
    follow(theirs, walk, 7)
    assert walk.levels[0] == 1 and walk.ends[-1] == 0


def test_every_key_of_diffusers_schedulers_is_known():
    """A key that a new version of diffusers adds is looked at; until then its default alone is simulated."""
    for name, simulated in SIMULATED.items():
        keys = set(inspect.signature(getattr(diffusers, name).__init__).parameters) - {"self"}
        unknown = keys - set(OTHER_KEYS) - set(simulated.fields) - set(simulated.only)
        assert unknown - {"algorithm_type"} == set(), name
        assert set(simulated.fields) | set(simulated.only) <= keys, name


def section(name="scheduler", steps=8, spacing="uniform", **more):
    values = {"eta": 0.0, "shift": 1.0, "clip_sample": False}
    return SimpleNamespace(name=name, steps=steps, spacing=spacing, **values | more)


def refused(config, sampler=None):
    with pytest.raises(RequestError) as caught:
        sampler_of(sampler or section(), config, "model.path: scheduler_config.json")
    (line,) = caught.value.problems
    assert "\n" not in line and "type " in line, line
    return line


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"_class_name": "HeunDiscreteScheduler"},
            "the steps of HeunDiscreteScheduler are not simulated, allowed: DDIM,",
        ),
        (
            {"_class_name": "DDIMScheduler", "thresholding": True},
            "thresholding: got True, which is not simulated, allo",
        ),
        (
            {"_class_name": "PNDMScheduler"},
            "skip_prk_steps: got False, which is not simulated, allowed: True; type model",
        ),
        (
            {"_class_name": "DDPMScheduler", "variance_type": "learned_range"},
            "variance_type: got 'learned_range', which is not simulated, allowed: fixed_small, fixed_large",
        ),
        (
            {
                "_class_name": "DPMSolverMultistepScheduler",
                "algorithm_type": "dpmsolver",
                "final_sigmas_type": "sigma_min",
            },
            "allowed: dpmsolver++, sde-dpmsolver++",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", **SDE, "solver_order": 3},
            "allowed: 1 or 2 with algorithm_type",
        ),
        ({"_class_name": "UniPCMultistepScheduler", "predict_x0": False}, "predict_x0: got False"),
        ({"_class_name": "UniPCMultistepScheduler", "lower_order_final": False}, "True with final_sigmas_type zero"),
        (
            {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
            "use_flow_sigmas: got False",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "type model.sampler.name=flow_euler",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
            "cannot make 8 timesteps of it",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 5},
            "model.sampler.steps: got 8, allowed: up to",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", **ZERO_SNR, "prediction_type": "epsilon"},
            "has no signal at all (rescale_betas_zero_snr)",
        ),
    ],
)
def test_what_is_not_simulated_is_refused_in_one_line(config, says):
    assert says in refused(config)


def test_a_key_of_a_newer_diffusers_is_simulated_at_its_default_alone(monkeypatch):
    class Newer(diffusers.EulerDiscreteScheduler):
        @diffusers.configuration_utils.register_to_config
        def __init__(self, num_train_timesteps: int = 1000, beta_schedule: str = "linear", wobble: float = 0.0):
            super().__init__(num_train_timesteps=num_train_timesteps, beta_schedule=beta_schedule)

    monkeypatch.setattr(diffusers.schedulers, "EulerDiscreteScheduler", Newer)
    assert len(sampler_of(section(), {"_class_name": "EulerDiscreteScheduler"}, "here")) == 8
    assert "wobble: got 0.5, which is not simulated, allowed: 0.0" in refused(
        {"_class_name": "EulerDiscreteScheduler", "wobble": 0.5}
    )


def test_a_sampler_of_the_config_takes_noise_and_prediction_from_the_file():
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    walk = sampler_of(section("flow_euler", spacing="trailing", steps=4, shift=2.0), flow, "here")
    assert walk.timesteps == pytest.approx([1000, 6000 / 7, 2000 / 3, 400]) and walk.prediction == "flow"
    assert (
        "allowed with it: dpm_solver, dpm_solver_sde, flow_euler, unipc; type model.sampler.name=flow_euler"
        in refused(flow, section("ddim"))
    )
    assert "allowed with it: ddim," in refused({"_class_name": "DDIMScheduler"}, section("flow_euler"))
    assert "allowed: trailing, linspace" in refused(flow, section("flow_euler"))
