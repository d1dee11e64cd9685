"""What there is to choose: the options of every group, in conf/ and in folders of the user's, and what each YAML
says about itself.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import quantlab.conf
from quantlab.run.parsing import ParseError, parse_yaml, read_yaml

CONF = Path(quantlab.conf.__file__).parent
NO_GROUPS = ("hydra", "table")  # folders of conf/ that hold no part of a run

_OWN: ContextVar[tuple[Path, ...]] = ContextVar("own folders", default=())


@contextmanager
def with_folders(folders: Sequence[Path]) -> Iterator[None]:
    """While the block runs, the user's `folders` belong to the catalog: they are laid out as conf/ is, and come
    after it.
    """
    token = _OWN.set(tuple(folders))
    try:
        yield
    finally:
        _OWN.reset(token)


def folders() -> list[Path]:
    """conf/ and the user's, in the order in which Hydra searches them: of two files of one name the first is taken."""
    return [CONF, *_OWN.get()]


def options(group: str) -> dict[str, Path]:
    """The YAML of every option of `group` (`ddim`, `detection/faster_rcnn_w4a4`), by name, sorted."""
    # A file whose name begins with "_" is a part of others, not a choice.
    found = {
        path.relative_to(folder / group).with_suffix("").as_posix(): path
        for folder in reversed(folders())
        for path in (folder / group).rglob("*.yaml")
        if not path.name.startswith("_")
    }
    return dict(sorted(found.items()))


def groups() -> list[str]:
    """`task`, `model`, ..., `experiment`, and groups of the user's: the folders that hold YAML."""
    own = {
        entry.name
        for folder in _OWN.get()
        for entry in folder.iterdir()
        if entry.is_dir() and any(entry.glob("*.yaml"))
    }
    ours = {entry.name for entry in CONF.iterdir() if entry.is_dir() and entry.name not in NO_GROUPS}
    return sorted(name for name in own | ours if not name.startswith(("_", ".")))


def root_configs() -> dict[str, Path]:
    """The YAMLs that stand in no group, by name: `config`, and what --config-name may choose beside it."""
    return {path.stem: path for folder in reversed(folders()) for path in sorted(folder.glob("*.yaml"))}


def hidden(name: str) -> list[Path]:
    """Files `name`.yaml ("model/resnet20", "config") that Hydra never reads, since an earlier folder holds another
    of that name.
    """
    first, *others = [path for folder in folders() if (path := folder / f"{name}.yaml").is_file()] or [None]
    return [path for path in others if path.read_bytes() != first.read_bytes()]


def table_rows() -> dict[str, dict[str, list[dict[str, str]]]]:
    """Rows of the papers' tables beside the experiments, by paper: `with_a_word`, each a `row` and what to `type`, and
    `not_yet`, each a `row` and what it `needs`."""
    return read_yaml(CONF / "experiment" / "_rows.yaml")


def headline(option: Path) -> str:
    """The first comment line of a YAML: what it is. Empty where it has none."""
    for line in option.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").rstrip()
    return ""


def target_of(group: str, option: Path) -> Any:
    """The `_target_` of a YAML: at its root, under its group (`# @package _global_`), or of an option of the group
    it builds on.
    """
    content = _content(option)
    inner = content.get(group)
    target = content.get("_target_") or (inner.get("_target_") if isinstance(inner, dict) else None)
    return target or next((found for parent in _parents(group, content) if (found := target_of(group, parent))), None)


def composed(group: str, option: str) -> dict[str, Any]:
    """What choosing an option sets, as plain data: that of the options it builds on, then its own. Interpolations
    stand as they are.
    """
    file = _file(group, option)
    content = {} if file is None else _content(file)
    parents: dict[str, Any] = {}
    for entry in content.pop("defaults", ()):
        if isinstance(entry, dict):  # {"/model@feature_network": task_classifier}
            ((where, name),) = entry.items()
            other, _, key = where.removeprefix("/").partition("@")
            parents = merged(parents, {key: composed(other, name)})
        elif entry != "_self_":
            parents = merged(parents, composed(group, entry))
    return merged(parents, content)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both have a value, that of `above` counts."""
    both = {
        key: merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return {**below, **above, **both}


def own_choice(method: str, group: str) -> str | None:
    """The option of `group` that choosing the method brings along; None where its YAML leaves it to
    conf/config.yaml.
    """
    option = options("method").get(method)  # a method section of the user's may be called otherwise than its file
    return _choice(option, group) if option else None


def _choice(option: Path, group: str) -> str | None:
    content = _content(option)
    chosen = [entry for entry in content.get("defaults") or () if isinstance(entry, dict)]
    own = next((name for entry in chosen for key, name in entry.items() if key.startswith(f"override /{group}@")), None)
    return own or next((found for parent in _parents("method", content) if (found := _choice(parent, group))), None)


def _parents(group: str, content: dict[str, Any]) -> list[Path]:
    """The options and parts of the group that a YAML builds on."""
    names = [name for name in content.get("defaults") or () if isinstance(name, str) and name != "_self_"]
    found = [_file(group, name.removeprefix(f"/{group}/")) for name in names]
    return [path for path in found if path is not None]


def _file(group: str, name: str) -> Path | None:
    """The YAML of an option or a part of the group, the first in Hydra's order."""
    return next((path for folder in folders() if (path := folder / group / f"{name}.yaml").is_file()), None)


def _content(option: Path) -> dict[str, Any]:
    """The mapping that a YAML holds; empty where it holds none, which is said when it is chosen."""
    try:
        content = read_yaml(option)
    except (OSError, ParseError):
        return {}
    return content if isinstance(content, dict) else {}


def root_settings(keys: Iterable[str]) -> dict[str, Any]:
    """The values of keys of conf/config.yaml. Interpolations stand as they are."""
    content = parse_yaml(root_config())
    return {key: content[key] for key in keys}


def root_config() -> str:
    """The text of conf/config.yaml."""
    return (CONF / "config.yaml").read_text(encoding="utf-8")
