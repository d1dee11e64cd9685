"""Hydra set up as hydra.main() does it with --config-dir, to compose configs in."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hydra import initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

_CONFIG_DIR: ContextVar[str | None] = ContextVar("--config-dir", default=None)


class ConfigDir(SearchPathPlugin):
    """The folder of --config-dir comes after quantlab's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if (folder := _CONFIG_DIR.get()) is not None:
            search_path.append(provider="command-line", path=f"file://{folder}")


@contextmanager
def hydra_context(config_dir: str | None) -> Iterator[None]:
    """While the block runs, `hydra.compose` finds quantlab's configs and those of `config_dir`."""
    Plugins.instance().register(ConfigDir)
    token = _CONFIG_DIR.set(config_dir)
    try:
        with initialize_config_module("quantlab.conf", job_name="quantlab", version_base="1.3"):
            yield
    finally:
        _CONFIG_DIR.reset(token)
