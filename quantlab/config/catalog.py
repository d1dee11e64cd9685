"""What conf/ offers: the options of every group, and the line that each YAML says about itself."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

import quantlab.conf

CONF = Path(quantlab.conf.__file__).parent


def options(group: str) -> dict[str, Path]:
    """The YAML of every option of `group` (`accuquant`, `qat/resnet20_cifar10_w2a2`), by name, sorted."""
    # A file whose name begins with "_" is a part of others, not a choice.
    return {path.relative_to(CONF / group).with_suffix("").as_posix(): path
            for path in sorted((CONF / group).rglob("*.yaml")) if not path.name.startswith("_")}


def groups() -> list[str]:
    """The folders of conf/: `task`, `model`, ..., `experiment`; an empty one is a group without options."""
    return sorted(entry.name for entry in CONF.iterdir() if entry.is_dir() and not entry.name.startswith("_"))


def headline(option: Path) -> str:
    """The first comment line of a YAML: what it is. Empty where it has none."""
    for line in option.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").rstrip()
    return ""


def target_of(group: str, option: Path) -> Any:
    """The `_target_` of a YAML: at its root, under its group (`# @package _global_`), or of an option of the group it builds on."""
    content = yaml.safe_load(option.read_text(encoding="utf-8")) or {}
    target = content.get("_target_") or (content.get(group) or {}).get("_target_")
    parents = [CONF / group / f"{name}.yaml" for name in content.get("defaults") or () if isinstance(name, str)]
    return target or next((target_of(group, parent) for parent in parents if parent.is_file()), None)


def composed(group: str, option: str) -> dict[str, Any]:
    """What choosing an option sets, as plain data: that of the options it builds on, then its own. Interpolations stand as they are."""
    content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8")) or {}
    parents: dict[str, Any] = {}
    for entry in content.pop("defaults", ()):
        if isinstance(entry, dict):     # {"/model@feature_network": task_classifier}
            (where, name), = entry.items()
            other, _, key = where.removeprefix("/").partition("@")
            parents = _merged(parents, {key: composed(other, name)})
        elif entry != "_self_":
            parents = _merged(parents, composed(group, entry))
    return _merged(parents, content)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(below[key], above[key]) for key in below.keys() & above.keys()
            if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return {**below, **above, **both}


def own_choice(method: str, group: str) -> str | None:
    """The option of `group` that choosing the method brings along; None where its YAML leaves it to conf/config.yaml."""
    content = yaml.safe_load(options("method")[method].read_text(encoding="utf-8"))
    chosen = [entry for entry in content.get("defaults") or () if isinstance(entry, dict)]
    return next((name for entry in chosen for key, name in entry.items() if key.startswith(f"override /{group}@")), None)


def root_settings(keys: Iterable[str]) -> dict[str, Any]:
    """The values of keys of conf/config.yaml. Interpolations stand as they are."""
    content = yaml.safe_load(root_config())
    return {key: content[key] for key in keys}


def root_config() -> str:
    """The text of conf/config.yaml."""
    return (CONF / "config.yaml").read_text(encoding="utf-8")
