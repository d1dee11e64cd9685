"""The noise schedule of a diffusers scheduler's config, and what its network predicts. The noise is that of DDPM's
forward process (Ho et al. 2020, Eq. 4), or a flow's:

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,     abar_t = prod (1 - beta_s)
    x_t = (1 - sigma_t) x_0 + sigma_t eps,             sigma_t = (t + 1) / train_timesteps

Many schedulers share the first and differ only in the reverse process, which `model.sampler` may replace.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantlab.errors import RequestError, did_you_mean
from quantlab.models.timm_classifier import first_line

# A network trained with one can be sampled with any other: each has `alphas_cumprod` from its config's betas
DDPM_FORWARD = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "RePaintScheduler",
)
# diffusers' names, and prediction's
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample", "flow_prediction": "flow"}
FLOWS = ("FlowMatchEulerDiscreteScheduler",)  # a flow whatever their config says
# Other common kinds, by the beginning of their names
OTHERS = {
    "ScoreSdeVe": "variance exploding",
    "KarrasVe": "variance exploding",
    "ScoreSdeVp": "of continuous time",
    "EDM": "EDM's preconditioning",
    "FlowM": "flow matching with another solver",
    "CMStochastic": "consistency",
    "ConsistencyDecoder": "consistency",
    "SCM": "consistency",
    "LCM": "consistency",
    "TCD": "consistency",
}

RESTORE = "restore it from where the model came from"


def noise_levels(config: Mapping[str, Any], where: str) -> Tensor:
    """The noise of every training timestep of a `scheduler_config.json`, float32 [train_timesteps]: abar, or sigma
    where the network predicts a flow; where: its name in errors. Raises: RequestError, as `alphas_cumprod`.
    """
    if prediction_kind(config, where) != "flow":
        return alphas_cumprod(config, where)
    return flow_levels(made(config, where).config.num_train_timesteps)


def flow_levels(train_timesteps: int) -> Tensor:
    """sigma of every training timestep, float32 [train_timesteps], up to 1."""
    return torch.arange(1, train_timesteps + 1, dtype=torch.float32) / train_timesteps


def alphas_cumprod(config: Mapping[str, Any], where: str) -> Tensor:
    """abar of every training timestep, float32 [train_timesteps], of a `scheduler_config.json`; where: its name in
    errors.

    Raises RequestError for schedulers with another forward process, and for invalid betas.
    """
    require_ddpm_forward(config.get("_class_name"), where)
    if config.get("use_flow_sigmas"):
        raise RequestError(
            f"{where}: {config['_class_name']} has use_flow_sigmas, which is flow matching, but its prediction_type is"
            ' not, allowed with it: flow_prediction; write "prediction_type": "flow_prediction" there if it is one'
        )
    alphas = torch.as_tensor(made(config, where).alphas_cumprod, dtype=torch.float32)
    if config.get("rescale_betas_zero_snr"):
        alphas = torch.cat([alphas[:-1], alphas.new_zeros(1)])  # for which some classes write 2^-24
    if len(alphas) < 2 or not ((alphas >= 0) & (alphas <= 1)).all() or (alphas.diff() > 0).any():
        raise RequestError(
            f"{where}: its betas are not a noise schedule, allowed: at least two, each from 0 to 1 "
            f"(num_train_timesteps, beta_schedule, beta_start, beta_end, trained_betas); {RESTORE}"
        )
    return alphas


def made(config: Mapping[str, Any], where: str) -> Any:
    """diffusers' scheduler of a config whose class is known to be one. Raises RequestError if it cannot be made."""
    from diffusers import schedulers

    name = config["_class_name"]
    try:
        scheduler = getattr(schedulers, name).from_config(dict(config))
        _ = name in FLOWS or scheduler.alphas_cumprod
        return scheduler
    except ImportError as error:
        raise RequestError(
            f"{where}: {first_line(error)}; install it, or write DDPMScheduler there, which has the same noise"
        ) from error
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(f"{where}: diffusers cannot make {name} of it ({first_line(error)}); {RESTORE}") from error


def prediction_kind(config: Mapping[str, Any], where: str) -> str:
    """What the network predicts, one of `prediction.KINDS`. Raises RequestError for anything else."""
    if config.get("_class_name") in FLOWS:
        return "flow"
    predicted = "sample" if config.get("predict_epsilon") is False else config.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS:
        raise RequestError(
            f"{where}: this model predicts {predicted} (prediction_type), allowed: {', '.join(PREDICTIONS)}; give"
            " another model.path"
        )
    return PREDICTIONS[predicted]


def require_ddpm_forward(name: Any, where: str) -> None:
    """Raises RequestError unless the scheduler class `name` has DDPM's forward process."""
    if name in DDPM_FORWARD:
        return
    known = ", ".join(one.removesuffix("Scheduler") for one in (*DDPM_FORWARD, *FLOWS))
    works = f"those with DDPM's forward process or a flow's, {known}"
    if not isinstance(name, str):
        raise RequestError(
            f"{where}: it does not name its class, allowed: {works}; write "
            '"_class_name": "DDPMScheduler" there if it is one of them'
        )
    kind = next((f" ({what})" for prefix, what in OTHERS.items() if name.startswith(prefix)), "")
    near = "" if kind else did_you_mean(name, (*DDPM_FORWARD, *FLOWS))
    raise RequestError(f"{where}: the noise schedule of {name}{kind} is not supported, allowed: {works}{near}")
