"""Shell commands that a report offers."""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf

from quantlab.config.catalog import composed, options, root_settings, target_of
from quantlab.report.metrics import reads_as_number
from quantlab.report.runs import flatten

PLAIN = re.compile(r"[\w./-]+", re.ASCII)  # what Hydra's grammar reads as text ...
WORDS = ("true", "false", "null")  # ... except these, and numbers


def training_command(config: Mapping[str, Any], subnet: str) -> str:
    """The command that trains one subnet of a search space alone, on the same task: same data, sizes, split and
    augmentation.

    config: the supernet's run, resolved, as plain data. What differs from the options of `task` and `model` is
        included, whether set on the command line, by an experiment, or by the method.
    """
    task, model = (_option(group, config[group]) for group in ("task", "model"))
    words = [
        "method=pretrain",
        f"task={task}",
        f"model={model}",
        f"model.subnet={as_value(subnet)}",
        *_differences("task", task, config),
        *_differences("model", model, config),
    ]
    defaults = OmegaConf.to_container(
        OmegaConf.create(root_settings(("data_dir", "cache_dir", "device"))), resolve=True
    )
    words += [
        f"{key}={as_value(config[key])}"
        for key, value in defaults.items()
        if key in config and os.path.expanduser(config[key]) != os.path.expanduser(value)
    ]
    return shell_command(["quantlab", *words])


def _option(group: str, section: Mapping[str, Any]) -> str:
    """The option that a section was composed from: by its name, or if a config renamed it, by its class."""
    of_its_class = [name for name, file in options(group).items() if target_of(group, file) == section.get("_target_")]
    return section["name"] if section["name"] in of_its_class or not of_its_class else of_its_class[0]


def _differences(group: str, option: str, config: Mapping[str, Any]) -> list[str]:
    if option not in options(group):  # a user's own file, whose content is unknown here
        return []
    # that interpolations may name
    roots = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    default = OmegaConf.to_container(OmegaConf.create({**roots, group: composed(group, option)}), resolve=True)[group]
    standing = dict(flatten(default))
    return [
        f"{group}.{key}={as_value(value)}"
        for key, value in flatten(config[group])
        if key not in ("_target_", "subnet", "weights") and key in standing and value != standing[key]
    ]


def as_value(value: Any) -> str:
    """`value` in the grammar of Hydra's overrides: `null`, `[0.5,1.0]`, `{channels:8}`, text quoted if it would be
    ambiguous.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\'", "\\\\'").replace("'", "\\'")
        return (
            value
            if PLAIN.fullmatch(value) and value.lower() not in WORDS and not reads_as_number(value)
            else f"'{escaped}'"
        )
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(as_value, value)) + "]"
    return repr(value)


def shell_command(words: Iterable[str]) -> str:
    """`words` as one line for a POSIX shell, in double quotes where these are more readable than shlex's escapes."""
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word) for word in words
    )
