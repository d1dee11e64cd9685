"""What Hydra itself would build from its own section of a config, held against an allowlist before it does.

Hydra instantiates `hydra.callbacks`, `hydra.launcher` and `hydra.sweeper`, with whatever stands below them, and
Python's logging builds handlers from `hydra.job_logging` and `hydra.hydra_logging`. Whoever hands over a YAML must not
get code of their choice run by it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from quantlab.config.launchers import NODES
from quantlab.errors import did_you_mean

PLUGINS: dict[str, type[Plugin]] = {"launcher": Launcher, "sweeper": Sweeper}
CALLBACKS = ("hydra.experimental.callbacks.LogJobReturnCallback",)
LOGGING = ("job_logging", "hydra_logging")
HANDLERS = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def foreign_nodes(composed: DictConfig) -> Iterator[str]:
    """A line for everything in the section `hydra` of a composed config that would build or call what is not on the
    allowlist.

    Raises: OmegaConfBaseException for an interpolation that leads nowhere.
    """
    hydra = composed.hydra
    with read_write(hydra), open_dict(hydra):
        hydra.runtime.output_dir = "."  # Hydra sets it when the job starts; log files lie there
        try:
            yield from _foreign(hydra)
        finally:
            hydra.runtime.output_dir = "???"


def _foreign(hydra: DictConfig) -> Iterator[str]:
    for node, kind in PLUGINS.items():
        allowed = [name for name, found in Plugins.instance().class_name_to_class.items() if issubclass(found, kind)]
        yield from _foreign_targets(_plain(hydra, node), f"hydra.{node}", [*allowed, *NODES])
    callbacks = _plain(hydra, "callbacks")
    for name, callback in callbacks.items() if isinstance(callbacks, Mapping) else ():
        yield from _foreign_targets(callback, f"hydra.callbacks.{name}", CALLBACKS)
    for node in LOGGING:
        yield from _foreign_logging(_plain(hydra, node), f"hydra.{node}")


def _plain(hydra: DictConfig, node: str) -> Any:
    found = OmegaConf.select(hydra, node)
    return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found


def _foreign_targets(value: Any, key: str, allowed: list[str] | tuple[str, ...]) -> Iterator[str]:
    """`allowed`: what the node itself may name; what stands below it may name nothing."""
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _foreign_targets(inner, f"{key}.{index}", ())
    if not isinstance(value, Mapping):
        return
    for name, inner in value.items():
        if name == "_target_" and inner not in allowed:
            may = ", ".join(allowed) or "none at this place"
            near = did_you_mean(inner, allowed) if isinstance(inner, str) else ""
            yield f"{key}._target_: got {inner!r}, which may not be instantiated, allowed: {may}{near or ';'} drop it"
        elif name != "_target_":
            yield from _foreign_targets(inner, f"{key}.{name}", ())


def _foreign_logging(value: Any, key: str) -> Iterator[str]:
    """logging.config calls what stands under "()", imports what `class` and an ext:// value name."""
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _foreign_logging(inner, f"{key}.{index}")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "()" or name == "class" and inner not in HANDLERS:
                allowed, group = "none" if name == "()" else ", ".join(HANDLERS), key.split(".")[1]
                got = f"{key}.{name}: got {inner!r}, which may not be instantiated"
                yield f"{got}, allowed: {allowed}; type hydra/{group}=none"
            else:
                yield from _foreign_logging(inner, f"{key}.{name}")
    elif isinstance(value, str) and value.startswith(("ext://", "cfg://")) and value not in STREAMS:
        yield f"{key}: got {value!r}, which would be imported, allowed: {', '.join(STREAMS)}; type {key}={STREAMS[0]}"
