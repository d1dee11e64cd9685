"""Directories of runs that earlier versions left, as this version reads them. The one place that knows what was other.

`config.yaml` says the format of its directory under `run_format`, and each checkpoint its own; what says none is of
format 1. A key that was added later is given the value that does what the earlier version did, and a renamed one its
new name. Whoever changes a key, a `_target_` or the state of a method such that finished runs would be misread adds it
to the changes of the format that is current, or begins a new one.

Format 1 (until November 2026) grew over time, so that its changes ask what is there. Format 2 has the number. Format 3
has the run's identity in config.yaml, and checkpoints and models that carry it (`binding`).
"""

from collections.abc import Mapping
from typing import Any

from quantlab.errors import RequestError
from quantlab.run.binding import IDENTITY

FORMAT = 3
OLDEST = 1
KEY = "run_format"

# _target_ of sections that moved
MOVED = {
    "quantlab.quantizers.trained_layer.FixedPointPolicy": "quantlab.quantizers.fixed_point.FixedPointPolicy",
    "quantlab.quantizers.wrap.UniformAffinePolicy": "quantlab.quantizers.uniform_affine.UniformAffinePolicy",
}


def migrated_config(config: Mapping[str, Any], where: str, made_by: str = "") -> dict[str, Any]:
    """The resolved config of a run as this version's schema has it, without its number. The mapping is left alone.

    where: the directory; made_by: the version that made it, as far as its results say. Raises: RequestError for a
    format that this version does not read.
    """
    number = config.get(KEY, 1)
    require_readable(number, where, made_by)
    config = _copy({key: value for key, value in config.items() if key not in (KEY, IDENTITY)})
    config = _from_1(config) if number == 1 else config
    for group in ("model", "quantizer", "method"):
        if isinstance(config.get(group), dict):
            config[group] = with_added_keys(config[group])
    evaluation = (config.get("task") or {}).get("evaluation") if isinstance(config.get("task"), dict) else None
    if isinstance(evaluation, dict) and "features" in evaluation:
        _fill(evaluation, EVALUATION)
    return config


def require_readable(number: Any, where: str, made_by: str = "") -> None:
    """Raises RequestError, in one line, unless this version reads what is of that format."""
    if isinstance(number, int) and OLDEST <= number <= FORMAT:
        return
    older = isinstance(number, int) and number < OLDEST
    reader = made_by or ("an earlier quantlab" if older else "a newer quantlab")
    raise RequestError(
        f"{where} is a run of format {number}, but this version reads {OLDEST} to {FORMAT}; {reader} reads it"
    )


def migrated_state(state: dict[str, Any], number: int, step: int, method: Any, trainer: Any) -> dict[str, Any]:
    """The state of a method from a checkpoint of `step` steps, as this version's method takes it.

    number: the checkpoint's format; method, trainer: the sections of the run's validated config.
    """
    if number > 1 or getattr(method, "name", None) not in ("accuquant", "ptq"):
        return state
    if "spent" in state:
        state = {("network_evaluations" if key == "spent" else key): value for key, value in state.items()}
    if "phase" not in state and step:
        units = state.pop("units", None)
        state["objective"] = {} if units is None else {"loss_scales": units}
        state["phase"] = state.pop("unit") if "unit" in state else _phase(step, method, trainer)
    return state


def _phase(step: int, method: Any, trainer: Any) -> int:
    """Of accuquant, the number of the phase in which its iteration `step` - 1 was made; ptq's others have one."""
    initialization = getattr(method, "initialization", None)
    if initialization is None:
        return 0
    whole = initialization.iterations + method.iterations
    total = min(whole, trainer.max_steps or whole)
    return int(step > total * initialization.iterations // whole)


# of sections of any format, by their class; filled in where they are missing
ADDED: dict[str, dict[str, Any]] = {
    "UniformAffinePolicy": {"preset": "none"},
    "load_pipeline": {"guidance": {"true_scale": None}, "prompts": {"count": None, "seed": 999}, "offload": "disk"},
}


EVALUATION = {  # of tasks that have `evaluation.features`
    "metrics": [],
    "lpips_network": "alex",
    "clip": "openai/clip-vit-large-patch14",
    "dino": "facebook/dinov2-base",
    "download": False,
}


def with_added_keys(section: dict[str, Any]) -> dict[str, Any]:
    """A section of a run, or of a saved model, with the keys that have been added since."""
    section = _copy(section)
    _fill(section, (MODELS | METHODS | ADDED).get(_class(section), {}))
    return section


# of a section of format 1, by its class; filled in where they are missing
TRAINER = {"compile": False, "drop_last": True}
PRETRAIN = {"optimizer": "adamw"}
WALK = {"sampler": {"name": "ddim", "shift": 1.0}, "guidance": {"scale": 1.0, "batched": True}}
MODELS: dict[str, dict[str, Any]] = {
    "build_ddim": WALK | {"prediction": "epsilon", "class_conditional": False, "class_dropout": 0.1},
    "load_pretrained": WALK,
    "build_mobilenet_supernet": {"initialization": "torch"},
}
TASKS = {
    **dict.fromkeys(("Digits", "ImageFolder", "ImageNet"), {"label_smoothing": 0.0}),
    **dict.fromkeys(("Mnist", "Cifar10", "Cifar100"), {"label_smoothing": 0.0, "split_file": None}),
}
GRADIENT = {
    "bits": 32,
    "granularity": "tensor",
    "interval": "large_gradient",
    "alpha": 1.0e-3,
    "beta": 1.0e-3,
    "gamma_min": 1.0e-3,
    "gamma_max": 1.0,
    "init": "quantile",
    "gamma": 1.0,
    "period": 100,
    "shift": 4,
}
METHODS: dict[str, dict[str, Any]] = {
    "AccuQuant": {"initialization": {"iterations": 0}, "bias_correction": "none", "keep_graphs": 1},
    "build_ptq": {"bias_correction": "none"},
    "QAT": {
        "start": None,
        "teacher": {"architecture": None, "weights": None},
        # of optimizers that there were not
        "learning_rate": {"nadam": 1.0e-3, "adamax": 2.0e-3, "rmsprop": 3.0e-4, "adagrad": 0.01},
        "nesterov": False,
        "batch_norm_batches": 0,
        "target_bits": "section",
        "oscillation": "none",
        "m_o": 0.001,
        "dampening": {"weight": 0.1, "start": 0.25, "aggregation": "kernel_mean"},
        "freezing": {
            "threshold_start": 0.1,
            "threshold_end": 0.01,
            "start": 0.25,
            "mean_from": "start_of_run",
            "max_bits": 32,
        },
    },
    "LowBit": {"deviation_scaling": False, "deviation_alpha": 20.0, "deviation_beta": 0.1, "batch_norm_batches": 0},
    "Supernet": {"flops_bins": None, "ranking": {"batches": "whole"}, "search": {"complexity": None}},
}


def _from_1(config: dict[str, Any]) -> dict[str, Any]:
    for group in ("task", "model", "quantizer", "method", "trainer"):
        if not isinstance(config.get(group), dict):
            return config  # whoever validates it says so
    task, model, quantizer, method = (config[group] for group in ("task", "model", "quantizer", "method"))
    _fill(config["trainer"], TRAINER)
    for section in (model, task.get("feature_network")):
        if isinstance(section, dict):
            _fill(section, {"pretrain": PRETRAIN})
    _fill(task, TASKS.get(_class(task), {}))
    _fill_quantizer(quantizer)
    if _class(method) == "AccuQuant" and "initialization" not in method:
        method["initialization"] = {"iterations": 0, "learning_rate": _copy(method.get("learning_rate"))}
    return config


def _fill_quantizer(quantizer: dict[str, Any]) -> None:
    quantizer.update({"_target_": MOVED[quantizer["_target_"]]} if quantizer.get("_target_") in MOVED else {})
    if _class(quantizer) != "UniformAffinePolicy":
        _fill(quantizer, {"gradient": GRADIENT} if "_target_" in quantizer else {})
        return
    # The first and the last layer were as the others, but for what `policy` said.
    bits = {f"{part}_bits": (quantizer.get(part) or {}).get("bits") for part in ("weight", "activation")}
    _fill(quantizer, {"first_layer": bits, "last_layer": bits})


def _class(section: Mapping[str, Any]) -> str:
    return str(section.get("_target_", "")).rpartition(".")[2]


def _fill(section: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Put `values` where `section` has none; what it has stays."""
    for key, value in values.items():
        if key not in section:
            section[key] = _copy(value)
        elif isinstance(section[key], dict) and isinstance(value, Mapping):
            _fill(section[key], value)


def _copy(value: Any) -> Any:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
