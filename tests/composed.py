"""Configs as the command composes them from conf/, without the command."""

from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from quantlab.config import RunConfig, validate


def composed_plain(*words: str) -> dict[str, Any]:
    """The resolved plain config of those words, right or wrong."""
    with initialize_config_module("quantlab.conf", version_base="1.3"):
        mapping = OmegaConf.to_container(compose("config", list(words)), resolve=True)
    return {key: value for key, value in mapping.items() if key != "experiment"}


def composed(*words: str) -> RunConfig:
    """The typed config of those words. Raises RequestError where they make no sense."""
    return validate(composed_plain(*words))
