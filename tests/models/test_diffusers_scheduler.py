"""Which schedulers have DDPM's forward process, and the alphas that their configs give."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, schedulers

from quantlab.errors import RequestError
from quantlab.models.diffusers_scheduler import DDPM_FORWARD, FLOWS, alphas_cumprod, noise_levels, prediction_kind


@pytest.mark.parametrize("name", DDPM_FORWARD)
def test_schedulers_that_share_ddpm_s_noise_give_its_alphas(name):
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    betas = {"num_train_timesteps": 50, "beta_start": 0.001, "beta_end": 0.03, "beta_schedule": "scaled_linear"}
    if name == "RePaintScheduler":
        betas["beta_schedule"] = "linear"
    found = alphas_cumprod(betas | {"_class_name": name, "use_karras_sigmas": name.startswith("Euler")}, "here")
    torch.testing.assert_close(found, DDPMScheduler(**betas).alphas_cumprod)


def test_betas_are_taken_as_they_are_given():
    betas = [0.1, 0.2, 0.5]
    found = alphas_cumprod({"_class_name": "PNDMScheduler", "num_train_timesteps": 3, "trained_betas": betas}, "here")
    torch.testing.assert_close(found, torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.5]))
    rescaled = alphas_cumprod({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}, "here")
    euler = alphas_cumprod({"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True}, "here")
    assert torch.equal(euler, rescaled)  # it writes 2^-24 for its own last step, above the one before
    assert rescaled[-1] == 0 and torch.equal(rescaled, DDIMScheduler(rescale_betas_zero_snr=True).alphas_cumprod)


def test_a_flow_has_every_noise_up_to_one():
    flow = noise_levels({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "here")
    assert len(flow) == 1000 and flow[-1] == 1 and flow[0] == pytest.approx(0.001)  # trained unshifted or not
    solver = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
    assert torch.equal(noise_levels(solver, "here"), flow)
    assert prediction_kind(solver, "here") == prediction_kind({"_class_name": FLOWS[0]}, "here") == "flow"


@pytest.mark.parametrize(
    "config, says",
    [
        (
            {"_class_name": "ScoreSdeVeScheduler"},
            "ScoreSdeVeScheduler (variance exploding) is not supported, allowed: those with DDPM's forward",
        ),
        ({"_class_name": "ScoreSdeVpScheduler"}, "ScoreSdeVpScheduler (of continuous time)"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "(flow matching with another solver)"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "(consistency)"),
        ({"_class_name": "EDMEulerScheduler"}, "(EDM's preconditioning)"),
        ({"_class_name": "DDIMSchedular"}, "did you mean 'DDIMScheduler'?"),
        ({"_class_name": "os.system"}, "the noise schedule of os.system is not supported"),
        ({}, 'write "_class_name": "DDPMScheduler"'),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "use_flow_sigmas, which is flow matching",
        ),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "steep"}, "diffusers cannot make DDPMScheduler of it"),
        ({"_class_name": "DDPMScheduler", "trained_betas": [0.1, 1.5]}, "not a noise schedule"),
    ],
)
def test_other_noise_is_refused(config, says):
    with pytest.raises(RequestError) as caught:
        alphas_cumprod(config, "here")
    assert str(caught.value).startswith("here: ") and says in str(caught.value) and "\n" not in str(caught.value)


def test_no_scheduler_outside_of_the_list_has_ddpm_s_noise_unknown_to_us():
    """New schedulers of diffusers are looked at, not overlooked."""
    other = {
        "CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler",
        "DDIMInverseScheduler",
        "DPMSolverMultistepInverseScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "UnCLIPScheduler",
        "CosineDPMSolverMultistepScheduler",
    }
    names = {name for name in dir(schedulers) if name.endswith("Scheduler")}
    assert set(DDPM_FORWARD) <= names
    for name in names - set(DDPM_FORWARD) - other:
        try:
            scheduler = getattr(schedulers, name)()
        except (AttributeError, ImportError, TypeError):
            continue
        assert not hasattr(scheduler, "alphas_cumprod"), name
