"""Keys that have no effect beside other keys' values.

Of `trainer`, which all methods share, such a key is refused. Of the others it is told, where it was typed: an
experiment may well hold `method.milestones` and its user type `method.decay=cosine`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from quantlab.config.fields import Section
from quantlab.config.methods import Method, Supernet


def trainer_problems(method: Method, trainer: Section | None) -> Iterator[str]:
    """A line for every key of the `trainer` section that does nothing in this method."""
    if trainer is None:
        return
    name = method.name
    if trainer.compile and not method.trains_network:
        yield (
            f"trainer.compile: got true, but method={name} trains no network as a whole, allowed: false; type"
            " trainer.compile=false"
        )
    elif trainer.compile and isinstance(method, Supernet):
        yield (
            "trainer.compile: got true, but method=supernet computes another subnet at every step, allowed: false; "
            "type trainer.compile=false"
        )
    if trainer.mixed_precision != "no" and not method.trains_network:
        yield (
            f"trainer.mixed_precision: got {trainer.mixed_precision}, but method={name} computes in float32 throughout,"
            " allowed: no; type trainer.mixed_precision=no (weights that method=pretrain trained in half precision"
            " come in by model.weights=FILE)"
        )
    if trainer.epochs is not None and not method.trains_network:
        why = "draws no epochs of images" if method.makes_steps else "makes no steps"
        instead = " trainer.max_steps=N" if method.makes_steps and trainer.max_steps is None else ""
        yield (
            f"trainer.epochs: got {trainer.epochs}, but method={name} {why}, allowed: null; type"
            f" trainer.epochs=null{instead}"
        )
    if not trainer.drop_last and not method.trains_network:
        yield (
            f"trainer.drop_last: got false, but method={name} draws no epochs of images, allowed: true; type"
            " trainer.drop_last=true"
        )
    if trainer.max_steps is not None and not method.makes_steps:
        yield (
            f"trainer.max_steps: got {trainer.max_steps}, but method={name} makes no steps, allowed: null; type"
            " trainer.max_steps=null"
        )
    if trainer.num_workers is not None and not method.loads_data:
        yield (
            f"trainer.num_workers: got {trainer.num_workers}, but method={name} loads no data in other processes,"
            " allowed: null; type trainer.num_workers=null"
        )


class Acts(NamedTuple):
    """`key`, and all below it, act only where the key `of` has one of `values`."""

    key: str
    of: str
    values: tuple[Any, ...]


class Given(tuple):
    """Any value but null."""

    def __contains__(self, value: object) -> bool:
        return value is not None


GIVEN = Given(("a value",))


def only_if(of: str, values: tuple[Any, ...], *keys: str) -> list[Acts]:
    return [Acts(key, of, values) for key in keys]


EFFECTS: list[Acts] = [
    # training with quantizers
    *only_if("method.decay", ("step",), "method.milestones", "method.decay_factor"),
    *(
        Acts(f"method.learning_rate.{name}", "method.optimizer", (name,))
        for name in ("sgd", "adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad")
    ),
    *only_if("method.optimizer", ("sgd",), "method.momentum", "method.nesterov"),
    *only_if(
        "method.schedule",
        ("transition_rate",),
        "method.target_transition_rate",
        "method.target_bits",
        "method.rule",
        "method.eta",
    ),
    Acts("method.eta", "method.rule", ("additive",)),
    *only_if("method.deviation_scaling", (True,), "method.deviation_alpha", "method.deviation_beta"),
    Acts("method.dampening", "method.oscillation", ("dampening",)),
    Acts("method.freezing", "method.oscillation", ("freezing",)),
    *only_if(
        "quantizer.gradient.interval",
        ("large_gradient",),
        *(f"quantizer.gradient.{key}" for key in ("beta", "gamma_min", "gamma_max", "init")),
    ),
    Acts("quantizer.gradient.gamma", "quantizer.gradient.interval", ("fixed",)),
    Acts("quantizer.gradient.period", "quantizer.gradient.interval", ("dsgc",)),
    Acts("quantizer.gradient.shift", "quantizer.gradient.interval", ("piecewise",)),
    *only_if(
        "quantizer.gradient.bits",
        tuple(range(2, 17)),
        *(
            f"quantizer.gradient.{key}"
            for key in (
                "granularity",
                "interval",
                "alpha",
                "beta",
                "gamma_min",
                "gamma_max",
                "init",
                "gamma",
                "period",
                "shift",
            )
        ),
    ),
    Acts("quantizer.activation.signed", "quantizer.activation.bits", tuple(range(1, 9))),
    # diffusion models, and their post-training quantization
    Acts("model.sampler.eta", "model.sampler.name", ("ddim",)),
    *only_if("model.class_conditional", (True,), "model.guidance", "model.class_dropout"),
    *only_if(
        "method.reconstruction",
        ("step", "block"),
        "method.network_evaluations",
        "method.learn",
        "method.learning_rate",
        "method.rounding_regularizer",
        "method.batch_size",
    ),
    Acts("method.step_loss", "method.reconstruction", ("step",)),
    Acts("method.learning_rate.rounding", "method.learn.rounding", (True,)),
    Acts("method.learning_rate.activation_scales", "method.learn.activation_scales", (True,)),
    Acts("method.rounding_regularizer", "quantizer.weight.rounding", ("adaround",)),
    *only_if("quantizer.weight.rounding", ("adaround", "straight_through"), "quantizer.zeta", "quantizer.gamma"),
    Acts("quantizer.softmax_bits", "quantizer.attention", (True,)),
    *only_if(
        "quantizer.weight.bits",
        tuple(range(2, 9)),
        *(f"quantizer.weight.{key}" for key in ("symmetric", "granularity", "scale_search", "rounding")),
    ),
    *only_if(
        "quantizer.activation.bits",
        tuple(range(2, 9)),
        *(f"quantizer.activation.{key}" for key in ("symmetric", "scale_search", "scales")),
    ),
    # classification
    *only_if("task.split_file", (None,), "task.validation_fraction", "task.split_seed"),
    # supernets
    Acts("method.fsnas_split", "method.sampler", ("fsnas",)),
    *only_if("method.momentum_separation", (True,), "method.split"),
    Acts("method.decay", "method.calr", (False,)),
    Acts("method.ranking.calibration_images", "method.ranking.batch_norm", ("recalibrated",)),
    Acts("method.search.complexity", "method.search.complexity_limit", GIVEN),
    Acts("method.ranking.stand_alone", "method.ranking.truth", (None,)),
    *only_if(
        "method.search.strategy", ("evolutionary", "random"), "method.search.population", "method.search.generations"
    ),
    *only_if(
        "method.search.strategy",
        ("evolutionary",),
        *(f"method.search.{key}" for key in ("parents", "crossover", "mutation", "mutation_probability")),
    ),
]


def without_effect(config: Mapping[str, Any], typed: Iterable[str]) -> list[str]:
    """A line for every key that was typed (`typed`: overrides of the command line) and does nothing in the resolved
    `config`.
    """
    lines = {}
    for key in typed_keys(typed):
        for rule in EFFECTS:
            found, value = _get(config, rule.of)
            if (
                found
                and _get(config, rule.key)[0]
                and value not in rule.values
                and (key == rule.key or key.startswith(f"{rule.key}."))
            ):
                acting = (
                    " or ".join(map(_shown, rule.values))
                    if len(rule.values) < 4
                    else f"{rule.values[0]} to {rule.values[-1]}"
                )
                lines.setdefault(key, f"{key} has no effect with {rule.of}={_shown(value)}; it acts with {acting}")
    return list(lines.values())


def typed_keys(typed: Iterable[str]) -> list[str]:
    """`method.decay` of the override `+method.decay=step`; what is deleted is not among them."""
    return [
        word.lstrip("+").partition("=")[0].partition("@")[0]
        for word in typed
        if "=" in word and not word.startswith("~")
    ]


def _get(config: Any, key: str) -> tuple[bool, Any]:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return False, None
        config = config[part]
    return True, config


def _shown(value: Any) -> str:
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if value is None or isinstance(value, bool)
        else str(value)
    )
