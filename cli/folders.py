"""YAML of the user's beside conf/: `--config-dir`, `--config-name` and `hydra.searchpath`, found where Hydra finds
them.
"""

import argparse
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantlab.config.catalog import groups, root_configs, with_folders
from quantlab.errors import RequestError, did_you_mean
from quantlab.run.parsing import ParseError, read_yaml


@contextmanager
def own_folders(arguments: argparse.Namespace) -> Iterator[None]:
    """While the block runs, the catalog knows what the user's folders hold.

    Raises `RequestError` for a folder or a root config that is not there.
    """
    arguments.config_name = (arguments.config_name or "config").removesuffix(".yaml")
    folders = []
    if arguments.config_dir is not None:
        folder = Path(arguments.config_dir).expanduser().absolute()
        if not folder.is_dir():
            raise RequestError(
                f"--config-dir: no such directory: {folder}; type a folder that holds GROUP/NAME.yaml, as in"
                " model/mine.yaml"
            )
        arguments.config_dir = str(folder)
        folders.append(folder)
    with with_folders(folders):
        root = root_configs().get(arguments.config_name)
        typed = [word for word in arguments.overrides if word.lstrip("+").startswith("hydra.searchpath=")]
        if typed or root is not None and arguments.config_name != "config":
            folders += [_folder(entry) for entry in _search_path(typed, root)]
    with with_folders(folders):
        if arguments.config_name not in root_configs():
            near = did_you_mean(arguments.config_name, root_configs())
            raise RequestError(
                f"--config-name: got '{arguments.config_name}', allowed: {', '.join(root_configs())}{near or ';'} "
                "Type --config-dir DIR --config-name NAME for DIR/NAME.yaml"
            )
        for folder in folders:
            _require_readable(folder)
        yield


def _require_readable(folder: Path) -> None:
    """Raises RequestError for a YAML of the user's that is none, or that Hydra would read without end: it expands
    aliases and knows no bounds.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    files = [*folder.glob("*.yaml"), *(file for group in groups() for file in (folder / group).rglob("*.yaml"))]
    for file in sorted(files):
        try:
            read_yaml(file)
            OmegaConf.load(file)
        except (ParseError, YAMLError, OSError, OmegaConfBaseException) as error:
            raise RequestError(f"{file}: not readable as YAML: {' '.join(str(error).split())}; mend it") from None


def _search_path(typed: Sequence[str], root: Path | None) -> list[str]:
    """The entries of `hydra.searchpath`: as typed, or else the root config's."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if typed:
        try:
            value: Any = OverridesParser.create().parse_override(typed[-1]).value()
        except HydraException:
            value = None
        where = typed[-1]
    else:
        try:
            loaded = read_yaml(root)
            value = OmegaConf.select(OmegaConf.create(loaded), "hydra.searchpath") if isinstance(loaded, dict) else []
        except (ParseError, OmegaConfBaseException) as error:
            raise RequestError(f"{root}: not readable as YAML ({' '.join(str(error).split())}); mend it") from None
        value = [] if value is None else OmegaConf.to_container(value) if OmegaConf.is_list(value) else value
        where = f"{root}: hydra.searchpath"
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise RequestError(f"{where}: allowed: a list of folders; type 'hydra.searchpath=[file:///FOLDER]'")
    return value


def _folder(entry: str) -> Path:
    """The folder that an entry of `hydra.searchpath` names: a path, file://PATH or pkg://PACKAGE."""
    scheme, divider, place = entry.rpartition("://")
    if scheme == "pkg":
        try:
            package = importlib.util.find_spec(place.replace("/", "."))
        except (ImportError, ValueError):
            package = None
        found = (
            Path(next(iter(package.submodule_search_locations), ""))
            if package and package.submodule_search_locations
            else None
        )
    else:
        found = Path(place) if scheme in ("", "file") else None
    if found is None or not found.is_dir():
        raise RequestError(
            f"hydra.searchpath: got '{entry}', which is no folder; type"
            f" 'hydra.searchpath=[file://{Path.cwd() / 'FOLDER'}]'"
        )
    return found.absolute()
