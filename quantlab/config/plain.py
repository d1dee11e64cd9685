"""Back from typed sections to plain data: to write it, to hash it, and to build what a section describes."""

import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from quantlab.config.sections import Section, by_target, section_of
from quantlab.errors import RequestError


def to_plain(value: Any) -> Any:
    """Sections (and mappings and lists that hold some) as dicts, lists and scalars, `_target_` spelled as in YAML."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Mapping):
        return {key: to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(inner) for inner in value]
    return value


def config_hash(value: Any, without: Iterable[str] = ()) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON of plain data or sections.

    `without` names top-level keys that do not count. The order of keys never counts. Raises `TypeError` for what JSON
    does not know, `ValueError` for NaN and infinities.
    """
    plain = to_plain(value)
    if without:
        plain = {key: inner for key, inner in plain.items() if key not in set(without)}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def implementation(section: Section) -> Any:
    """The class or function that `section` names as its target, its module imported only now.

    Raises `RequestError` for a section without target, and for a target outside the allowlist.
    """
    target = getattr(section, "target", None)
    if section_of(target) is None:
        raise RequestError(f"{section.group}: {target} may not be instantiated; allowed: {', '.join(by_target())}")
    module, name = target.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def instantiate(section: Section, **runtime: Any) -> Any:
    """`target(section, **runtime)`: the object that `section` describes. Raises `RequestError` as `implementation`."""
    return implementation(section)(section, **runtime)
