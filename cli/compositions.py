"""The configs of a request, composed by Hydra once for all words that choose the same options of groups.

Hydra reads and merges some twenty YAML files for a config. The jobs of a sweep mostly choose the same options of all
groups, and so do the words of a wrong command that are tried one by one; what is left is to set values, as Hydra does.
"""

import copy
import re
from collections.abc import Sequence

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException


class Compositions:
    """Of one request, within Hydra's context. `naming`: words that every job has too, of the key hydra.job.config."""

    def __init__(self, root: str, naming: Sequence[str]):
        self.root, self.naming = root, list(naming)
        self._shared: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}

    def compose(self, overrides: Sequence[Override]) -> DictConfig:
        """What Hydra composes of these words, its own section included; not to be changed. Raises what Hydra raises."""
        values = [override for override in overrides if self._sets_a_value(override)]
        rest = [override for override in overrides if override not in values]
        if all(override.is_hydra_override() or self._is_group(override) for override in rest):
            try:
                return self._with_values(values, rest, overrides)
            except OmegaConfBaseException:
                pass  # Hydra says it
        return self._composed(overrides)

    def _with_values(self, values: list[Override], rest: list[Override], overrides: Sequence[Override]) -> DictConfig:
        key = tuple(str(override.input_line) for override in rest)
        if key not in self._shared:
            self._shared[key] = self._composed(rest)
        config = copy.deepcopy(self._shared[key]) if values else self._shared[key]
        for override in values:
            try:
                OmegaConf.update(config, override.key_or_group, override.value())
            except (ConfigAttributeError, ConfigKeyError) as error:
                raise ConfigCompositionException(f"Could not override '{override.key_or_group}'.") from error
        typed = [override for override in overrides if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in typed]
        config.hydra.job.override_dirname = _directory_name(config, typed)
        return config

    def _composed(self, overrides: Sequence[Override]) -> DictConfig:
        words = [str(override.input_line) for override in overrides]
        return compose(self.root, [*words, *self.naming], return_hydra_config=True)

    def _sets_a_value(self, override: Override) -> bool:
        changes = not (override.is_add() or override.is_force_add() or override.is_delete())
        plain = changes and override.package is None and not override.is_hydra_override()
        return plain and not self._is_group(override)

    def _is_group(self, override: Override) -> bool:
        """Whether it chooses an option of a group, one of the user's too."""
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = bool(GlobalHydra.instance().config_loader().get_group_options(key, None))
        return self._groups[key]


def _directory_name(config: DictConfig, typed: Sequence[Override]) -> str:
    """`hydra.job.override_dirname`, as Hydra makes it."""
    form = config.hydra.job.config.override_dirname
    lines = sorted(str(one.input_line) for one in typed if one.key_or_group not in form.exclude_keys)
    return re.sub("=", form.kv_sep, form.item_sep.join(lines))
