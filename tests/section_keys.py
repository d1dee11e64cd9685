"""The keys that sections may hold."""

from typing import Any, get_args

from quantlab.config.fields import Strict
from quantlab.config.quantizers.training import TrainedQuantizer
from quantlab.config.sections import Section, by_target, without_target

# The last is of those that need no section of their own
SECTIONS: set[type[Section]] = {*by_target().values(), *without_target().values(), TrainedQuantizer}


def keys_of(section: type[Strict]) -> set[tuple[type[Strict], str]]:
    """Class and name of every key of a section and of the mappings in it."""
    found = set()
    for name, field in section.model_fields.items():
        inner = [kind for kind in kinds_in(field.annotation) if issubclass(kind, Strict)]
        found |= {(section, name)} | {key for kind in inner for key in keys_of(kind)}
    return found


def kinds_in(annotation: Any) -> list[type]:
    return (
        [annotation]
        if isinstance(annotation, type) and not get_args(annotation)
        else [kind for argument in get_args(annotation) for kind in kinds_in(argument)]
    )


def dotted(section: type[Strict], prefix: str) -> set[str]:
    found = set()
    for name, field in section.model_fields.items():
        inner = [kind for kind in kinds_in(field.annotation) if issubclass(kind, Strict)]
        found |= {f"{prefix}.{name}"} | {key for kind in inner for key in dotted(kind, f"{prefix}.{name}")}
    return found
