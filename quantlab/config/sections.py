"""What a section of a run's config is, and how one finds its class: by `_target_`, or by group and name without one.

A section registers itself: `class EDSR(SuperResolver, target="quantlab.models.edsr.build_edsr")` says what it
describes, and holds its keys, its cross-checks, and what the rest asks of it. It is found by its place, a file in
`quantlab/config/methods/` (`models/`, `quantizers/`, `tasks/`); nothing else lists it. What has no keys of its own
needs no section: where the source of a target says its `kind`, the section of that kind serves (`default_for`).

All targets together are the allowlist of what a config may instantiate: a config cannot name anything else.
"""

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field, field_validator
from pydantic_core import PydanticKnownError

from quantlab.config.catalog import options, target_of
from quantlab.config.effects import Acts
from quantlab.config.fields import Strict

GROUPS = ("task", "model", "quantizer", "method", "trainer", "logger")
# Below quantlab what sections describe, below quantlab.config their sections
PLACES = {"task": "tasks", "model": "models", "quantizer": "quantizers", "method": "methods"}

_BY_TARGET: dict[str, type["Section"]] = {}
_WITHOUT_TARGET: dict[tuple[str, str], type["Section"]] = {}
_BY_KIND: dict[tuple[str, str], type["Section"]] = {}


class Parts(NamedTuple):
    """The sections of one config, for their cross-checks. One that is wrong in itself is None and judges nothing."""

    task: Any
    model: Any
    quantizer: Any
    method: Any
    trainer: Any
    logger: Any


class Section(Strict):
    """One group of the config.

    `kind` is what other groups ask for: a method needs a model of the kind 'denoiser'. `effects`: which of its keys act
    only beside which values. `captions`: of its pictures, by file name, in the order of a report's page; `undrawn`:
    what it logs that is no curve to look at.
    """

    group: ClassVar[str]
    kind: ClassVar[str] = ""
    effects: ClassVar[tuple[Acts, ...]] = ()
    captions: ClassVar[Mapping[str, str]] = {}
    undrawn: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, name: str | None = None, **others: Any):
        """`name`: registers a section that names no target, by its group and its name."""
        super().__init_subclass__(**others)
        if name is not None:
            _WITHOUT_TARGET[cls.group, name] = cls

    def check(self, parts: Parts) -> Iterator[str]:
        """What makes no sense beside the other sections, or between its own keys: whole lines to act on."""
        yield from ()


class Targeted(Section):
    """A section that names the class or function of quantlab's which it describes."""

    targets: ClassVar[tuple[str, ...]] = ()  # empty: any that says its kind in its source
    target: str = Field(alias="_target_")

    def __init_subclass__(cls, target: str | tuple[str, ...] = (), default_for: str | None = None, **others: Any):
        """`target`: what it describes; `default_for`: the kind whose targets need no section of their own."""
        super().__init_subclass__(**others)
        cls.targets = (target,) if isinstance(target, str) else target
        _BY_TARGET.update(dict.fromkeys(cls.targets, cls))
        if default_for is not None:
            _BY_KIND[cls.group, default_for] = cls

    @field_validator("target", mode="before")
    @classmethod
    def _is_its_own(cls, target: Any) -> Any:
        if cls.targets and target not in cls.targets:
            expected = " or ".join(map(repr, cls.targets))
            raise PydanticKnownError("literal_error", {"expected": expected})
        return target


def by_target() -> Mapping[str, type[Section]]:
    """Every section that describes something, by target."""
    for group in GROUPS:
        _load(group)
    return _BY_TARGET


def without_target() -> Mapping[tuple[str, str], type[Section]]:
    """Every section that does not, by group and name."""
    for group in GROUPS:
        _load(group)
    return _WITHOUT_TARGET


def section_named(group: str, name: Any) -> type[Section] | None:
    """The section of that name in a group, of those without a target; the one whose name is empty serves any."""
    _load(group)
    return _WITHOUT_TARGET.get((group, str(name))) or _WITHOUT_TARGET.get((group, ""))


def of_group(group: str) -> list[type[Section]]:
    """Every section of a group that describes something."""
    return [section for section in dict.fromkeys(by_target().values()) if section.group == group]


def section_of(target: Any) -> type[Section] | None:
    """The section of a target; None for what may not be instantiated."""
    if not isinstance(target, str):
        return None
    group = next((group for group, place in PLACES.items() if target.startswith(f"quantlab.{place}.")), None)
    if group is None:
        return by_target().get(target)
    _load(group)
    return _BY_TARGET.get(target) or _default(group, target)


def section_in(group: str, config: Mapping[str, Any]) -> type[Section] | None:
    """The section of a group of plain data, right or wrong: by its target, or without one as the option of its name.

    For what is told of runs whose config may be of any age.
    """
    content = config.get(group)
    if not isinstance(content, Mapping):
        return None
    option = options(group).get(str(content.get("name")))
    return section_of(content.get("_target_") or (option and target_of(group, option)))


def by_option(group: str) -> dict[str, type[Section] | None]:
    """The section of every option of a group, by name."""
    return {name: section_of(target_of(group, option)) for name, option in options(group).items()}


def options_of_kind(group: str, kinds: tuple[str, ...]) -> list[str]:
    """The options of a group, by name, that are of one of these kinds."""
    return [name for name, section in by_option(group).items() if getattr(section, "kind", None) in kinds]


@cache
def _load(group: str) -> None:
    """Import every file that may hold a section of the group; not of all, since a wrong command needs few."""
    module = importlib.import_module(f"quantlab.config.{PLACES.get(group, group)}")
    for file in pkgutil.iter_modules(getattr(module, "__path__", ())):
        importlib.import_module(f"{module.__name__}.{file.name}")


def _default(group: str, target: str) -> type[Section] | None:
    """The section of the kind that a target says it is, where it has none of its own."""
    module, _, name = target.rpartition(".")
    if module.rpartition(".")[0] != f"quantlab.{PLACES[group]}":
        return None
    return _BY_KIND.get((group, _declared_kind(module, name)))


@cache
def _declared_kind(module: str, name: str) -> str:
    """`kind = "..."` in the class of that name, or in the one that the function of that name returns; "" without one.

    The source is read and not run, since torch must not be imported.
    """
    package, _, file = module.rpartition(".")
    places = importlib.util.find_spec(package).submodule_search_locations
    source = next((path for place in places if (path := Path(place) / f"{file}.py").is_file()), None)
    if source is None:
        return ""
    body = ast.parse(source.read_text(encoding="utf-8")).body
    named = {node.name: node for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    node = named.get(name)
    if isinstance(node, ast.FunctionDef):
        node = named.get(node.returns.id) if isinstance(node.returns, ast.Name) else None
    for line in node.body if isinstance(node, ast.ClassDef) else ():
        match line:
            case ast.Assign(targets=[ast.Name(id="kind")], value=ast.Constant(value=str(kind))):
                return kind
    return ""
