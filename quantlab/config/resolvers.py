"""YAML values that depend on another key."""

from typing import Any

from omegaconf import DictConfig, OmegaConf


def by(choice: Any, values: DictConfig) -> Any:
    """`${quantlab_by:${method.initialization},{scratch: 0.1, full_precision: 0.01}}`: the value for that key's choice.

    For an unknown choice, the first value: the schema refuses the choice and lists those allowed.
    """
    return values[choice] if choice in values else next(iter(values.values()))


OmegaConf.register_new_resolver("quantlab_by", by, replace=True)
