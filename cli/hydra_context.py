"""Hydra set up as hydra.main() does it with --config-dir, to compose configs in, from files within bounds."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import yaml
from hydra import initialize_config_module
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf.errors import OmegaConfBaseException

from quantlab.errors import RequestError
from quantlab.run.parsing import ParseError, read_yaml

_CONFIG_DIR: ContextVar[str | None] = ContextVar("--config-dir", default=None)


class ConfigDir(SearchPathPlugin):
    """The folder of --config-dir comes after quantlab's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if (folder := _CONFIG_DIR.get()) is not None:
            search_path.append(provider="command-line", path=f"file://{folder}")


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's reader of files, which expands aliases without end; it says which file is wrong, too. Named as Hydra's,
    whose registry knows its classes by name.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        try:
            read_yaml(file)
            return super().load_config(config_path)
        except (ParseError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise RequestError(f"{file}: not readable as YAML: {' '.join(str(error).split())}; mend it") from None


@contextmanager
def hydra_context(config_dir: str | None) -> Iterator[None]:
    """While the block runs, `hydra.compose` finds quantlab's configs and those of `config_dir`."""
    Plugins.instance().register(ConfigDir)
    SourcesRegistry.instance().types["file"] = FileConfigSource  # there is no public way to replace one
    token = _CONFIG_DIR.set(config_dir)
    try:
        with initialize_config_module("quantlab.conf", job_name="quantlab", version_base="1.3"):
            yield
    finally:
        _CONFIG_DIR.reset(token)
