"""The noise schedule of a diffusers scheduler's config, if it is DDPM's forward process (Ho et al. 2020, Eq. 4):

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,     abar_t = prod (1 - beta_s)

Many schedulers share it and differ only in the reverse process, which here is `model.sampler`, so only abar is used.
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
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}  # diffusers' names, and prediction's
# Other common kinds, by the beginning of their names
OTHERS = {
    "ScoreSdeVe": "variance exploding",
    "KarrasVe": "variance exploding",
    "ScoreSdeVp": "of continuous time",
    "EDM": "EDM's preconditioning",
    "FlowM": "flow matching",
    "CMStochastic": "consistency",
    "ConsistencyDecoder": "consistency",
    "SCM": "consistency",
    "LCM": "consistency",
    "TCD": "consistency",
}


def alphas_cumprod(config: Mapping[str, Any], where: str) -> Tensor:
    """abar of every training timestep, float32 [train_timesteps], of a `scheduler_config.json`; where: its name in
    errors.

    Raises RequestError for schedulers with another forward process, and for invalid betas.
    """
    from diffusers import schedulers

    name = config.get("_class_name")
    require_ddpm_forward(name, where)
    if config.get("use_flow_sigmas"):
        raise RequestError(
            f"{where}: {name} has use_flow_sigmas, which is flow matching, allowed: DDPM's forward "
            "process; give another model.path"
        )
    restore = "restore it from where the model came from"
    try:
        alphas = getattr(schedulers, name).from_config(dict(config)).alphas_cumprod
        alphas = torch.as_tensor(alphas, dtype=torch.float32)
    except ImportError as error:
        raise RequestError(
            f"{where}: {first_line(error)}; install it, or write DDPMScheduler there, which has the same noise"
        ) from error
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(f"{where}: diffusers cannot make {name} of it ({first_line(error)}); {restore}") from error
    if len(alphas) < 2 or not ((alphas >= 0) & (alphas <= 1)).all() or (alphas.diff() > 0).any():
        raise RequestError(
            f"{where}: its betas are not a noise schedule, allowed: at least two, each from 0 to 1 "
            f"(num_train_timesteps, beta_schedule, beta_start, beta_end, trained_betas); {restore}"
        )
    return alphas


def prediction_kind(config: Mapping[str, Any], where: str) -> str:
    """What the network predicts, one of `prediction.KINDS`. Raises RequestError for anything else."""
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
    known = ", ".join(one.removesuffix("Scheduler") for one in DDPM_FORWARD)
    works = f"those with DDPM's forward process, {known}"
    if not isinstance(name, str):
        raise RequestError(
            f"{where}: it does not name its class, allowed: {works}; write "
            '"_class_name": "DDPMScheduler" there if it is one of them'
        )
    kind = next((f" ({what})" for prefix, what in OTHERS.items() if name.startswith(prefix)), "")
    near = "" if kind else did_you_mean(name, DDPM_FORWARD)
    raise RequestError(f"{where}: the noise schedule of {name}{kind} is not supported, allowed: {works}{near}")
