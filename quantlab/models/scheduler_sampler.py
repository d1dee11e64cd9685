"""The sampler of a model in diffusers' format: as its scheduler's config says, or a walk of `model.sampler` over its
noise.

diffusers' own scheduler gives timesteps and noise levels, whatever its keys about them (`set_timesteps`); its steps are
simulated by `diffusion.samplers`, which are tested against it state by state. What is not simulated is refused.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from quantlab.diffusion.samplers import Walk, build_sampler, sampler_class
from quantlab.diffusion.samplers.base import LEAST_ALPHA
from quantlab.errors import RequestError, did_you_mean
from quantlab.models.diffusers_scheduler import DDPM_FORWARD, made, noise_levels, prediction_kind
from quantlab.models.timm_classifier import first_line

Levels = tuple[list[float], list[float]]  # before and after each step, as in `Walk`


# Noise levels of a diffusers scheduler with its timesteps set -------------------------------------------------------
def _to_next(scheduler: Any, times: list[float], predicted: str) -> Levels:
    """Each step leads to the timestep of the next."""
    alphas = [float(scheduler.alphas_cumprod[int(t)]) for t in times]
    return alphas, [*alphas[1:], 1.0]


def _by_stride(scheduler: Any, times: list[float], predicted: str) -> Levels:
    """Each step leads as far as train_timesteps // steps, which may not be the next timestep."""
    stride, alphas = _stride(scheduler), scheduler.alphas_cumprod.tolist()
    after = [int(t) - stride for t in times]
    ends = [alphas[t] if t >= 0 else float(scheduler.final_alpha_cumprod) for t in after]
    return [alphas[int(t)] for t in times], ends


def _first_twice(scheduler: Any, times: list[float], predicted: str) -> Levels:
    """As `_by_stride`, but step 1 is made again from where step 0 began."""
    before, after = _by_stride(scheduler, times, predicted)
    if len(times) > 1:
        alphas, second = scheduler.alphas_cumprod.tolist(), int(times[1])
        before[1], after[1] = alphas[min(second + _stride(scheduler), len(alphas) - 1)], alphas[second]
    return before, after


def _from_sigmas(scheduler: Any, times: list[float], predicted: str) -> Levels:
    """Of a flow they are its sigmas; else these are noise over signal."""
    sigmas = scheduler.sigmas.tolist()
    levels = sigmas if predicted == "flow" else [1 / (1 + sigma**2) for sigma in sigmas]
    return levels[:-1], levels[1:]


def _stride(scheduler: Any) -> int:
    return int(scheduler.config.num_train_timesteps // scheduler.num_inference_steps)


# Which classes, and which of their keys -----------------------------------------------------------------------------
class Simulated(NamedTuple):
    """A scheduler class of diffusers that is simulated.

    sampler: its file in `diffusion/samplers`; levels: its noise; fields: of the sampler, by the key that holds their
    value; only: the values that are simulated, of keys of which not all are.
    """

    sampler: str
    levels: Callable[[Any, list[float], str], Levels]
    fields: Mapping[str, str] = {}
    only: Mapping[str, tuple[Any, ...]] = {}


CLIPPING = {"clip_sample": "clip_sample", "clip_sample_range": "clip_range"}
MULTISTEP = {"solver_order": "order", "solver_type": "solver_type", "lower_order_final": "lower_order_final"}
NO_THRESHOLD = {"thresholding": (False,)}
DDIM = Simulated("ddim", _by_stride, CLIPPING, NO_THRESHOLD)
DDPM = Simulated(
    "ddpm",
    _to_next,
    {**CLIPPING, "variance_type": "variance"},
    {**NO_THRESHOLD, "variance_type": ("fixed_small", "fixed_large", "fixed_small_log")},
)
SIMULATED = {
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "PNDMScheduler": Simulated("pndm", _first_twice, {}, {"skip_prk_steps": (True,)}),
    "DPMSolverMultistepScheduler": Simulated(
        "dpm_solver",
        _from_sigmas,
        {**MULTISTEP, "euler_at_final": "euler_at_final"},
        {**NO_THRESHOLD, "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"), "solver_order": (1, 2, 3)},
    ),
    "UniPCMultistepScheduler": Simulated(
        "unipc",
        _from_sigmas,
        {**MULTISTEP, "disable_corrector": "uncorrected"},
        {**NO_THRESHOLD, "predict_x0": (True,), "solver_p": (None,), "solver_order": (1, 2, 3)},
    ),
    "EulerDiscreteScheduler": Simulated("euler", _from_sigmas),
    "EulerAncestralDiscreteScheduler": Simulated("euler_ancestral", _from_sigmas),
    "FlowMatchEulerDiscreteScheduler": Simulated(
        "flow_euler", _from_sigmas, {"stochastic_sampling": "stochastic"}, {"invert_sigmas": (False,)}
    ),
}
# What shapes timesteps and noise levels alone, which diffusers gives, or the prediction; or acts only beside what is
# refused; or a learned variance, which is dropped from the network's output
# fmt: off
OTHER_KEYS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
    "prediction_type", "timestep_spacing", "steps_offset", "timestep_type", "interpolation_type",
    "final_sigmas_type", "sigma_min", "sigma_max", "set_alpha_to_one", "use_karras_sigmas",
    "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "lambda_min_clipped", "use_flow_sigmas",
    "flow_shift", "shift", "shift_terminal", "use_dynamic_shifting", "time_shift_type", "base_shift",
    "max_shift", "base_image_seq_len", "max_image_seq_len", "dynamic_thresholding_ratio", "sample_max_value",
    "variance_type",
)
# fmt: on


# Walks --------------------------------------------------------------------------------------------------------------
def sampler_of(sampler: Any, config: Mapping[str, Any], where: str, **timesteps: Any) -> Walk:
    """The walk of a model with this `scheduler_config.json`; sampler: the config's section `model.sampler`, whose name
    may be "scheduler"; where: the file, in errors; timesteps: what its pipeline gives `set_timesteps` besides the
    number of steps (sigmas, mu).

    Raises: RequestError for what is not simulated; for more steps than the model was trained with; and for a walk of an
    epsilon network that starts at abar = 0: that state is pure noise, where epsilon carries no information about the
    image.
    """
    predicted, levels = prediction_kind(config, where), noise_levels(config, where)
    if sampler.steps > len(levels):
        raise RequestError(
            f"model.sampler.steps: got {sampler.steps}, allowed: up to the {len(levels)} "
            f"(num_train_timesteps) of {where.removeprefix('model.path: ')}; type "
            f"model.sampler.steps={len(levels)}"
        )
    from_file = sampler.name == "scheduler"
    if from_file:
        walk = scheduler_walk(config, where, sampler.steps, sampler.eta, **timesteps)
    else:
        walk = build_sampler(levels, sampler, predicted)
    if predicted == "epsilon" and min(walk.levels) <= 1.01 * LEAST_ALPHA:
        if from_file:
            remedy = "model.sampler.name=ddim model.sampler.spacing=uniform"
        elif sampler.spacing in ("trailing", "linspace"):
            remedy = "model.sampler.spacing=uniform"
        else:
            remedy = f"model.sampler.steps={len(levels) // 2}"
        raise RequestError(
            f"{where}: its last timestep has no signal at all (rescale_betas_zero_snr), and the walk of "
            f"{sampler.steps} steps starts there, allowed: one that skips it, or a network that predicts v or the"
            f" image; type {remedy}"
        )
    return walk


def scheduler_walk(config: Mapping[str, Any], where: str, steps: int, eta: float = 0.0, **timesteps: Any) -> Walk:
    """The walk of diffusers' scheduler of this config in `steps` steps; eta: of DDIM, there an argument of its steps.

    Raises: RequestError for a class or a key's value that is not simulated.
    """
    name, predicted = str(config.get("_class_name")), prediction_kind(config, where)
    simulated = SIMULATED.get(name)
    instead = (
        f"type model.sampler.name={'flow_euler' if predicted == 'flow' else 'ddim'} to take only the noise from it"
    )
    if simulated is None:
        raise RequestError(
            f"{where}: the steps of {name} are not simulated, allowed:"
            f" {', '.join(one.removesuffix('Scheduler') for one in SIMULATED)}"
            f"{did_you_mean(name, SIMULATED) if name not in DDPM_FORWARD else ''}; {instead}"
        )
    scheduler = made(config, where)
    for key, value, allowed in _unsimulated(scheduler, simulated, predicted):
        raise RequestError(f"{where}: {key}: got {value!r}, which is not simulated, allowed: {allowed}; {instead}")
    try:
        scheduler.set_timesteps(steps, **timesteps)
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(
            f"{where}: diffusers cannot make {steps} timesteps of it ({first_line(error)}); {instead}"
        ) from error
    times = [int(t) if t == int(t) else t for t in scheduler.timesteps.tolist()]
    levels, ends = simulated.levels(scheduler, times, predicted)
    fields = {field: scheduler.config[key] for key, field in simulated.fields.items()}
    if "uncorrected" in fields:
        fields["uncorrected"] = tuple(fields["uncorrected"])
    stochastic = "_sde" if scheduler.config.get("algorithm_type") == "sde-dpmsolver++" else ""
    return sampler_class(simulated.sampler + stochastic)(
        tuple(times),
        tuple(levels),
        tuple(ends),
        eta=eta,
        prediction=predicted,
        start_scale=float(getattr(scheduler, "init_noise_sigma", 1.0)),
        **fields,
    )


def _unsimulated(scheduler: Any, simulated: Simulated, predicted: str) -> list[tuple[str, Any, str]]:
    """Of each key of the scheduler whose value is not simulated: the key, the value, and what is allowed."""
    config, found = scheduler.config, []
    for key, parameter in inspect.signature(type(scheduler).__init__).parameters.items():
        if key in simulated.only:
            allowed = simulated.only[key]
        elif key == "self" or key in simulated.fields or key in OTHER_KEYS:
            continue
        else:  # of a diffusers newer than this table
            allowed = (parameter.default,)
        if config[key] not in allowed:
            found.append((key, config[key], ", ".join(map(str, allowed))))
    if bool(config.get("use_flow_sigmas", predicted == "flow")) != (predicted == "flow"):
        found.append(("use_flow_sigmas", config["use_flow_sigmas"], f"{predicted == 'flow'} with its prediction_type"))
    if config.get("algorithm_type") == "sde-dpmsolver++" and config["solver_order"] == 3:
        found.append(("solver_order", 3, "1 or 2 with algorithm_type sde-dpmsolver++"))
    ends_clean = config.get("final_sigmas_type") == "zero" and config.get("solver_order", 1) > 1
    if simulated.sampler == "unipc" and ends_clean and not config["lower_order_final"]:
        found.append(("lower_order_final", False, "True with final_sigmas_type zero"))
    return found
