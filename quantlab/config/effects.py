"""Keys that have no effect beside other keys' values: told where they were typed, since an experiment may well hold
`method.milestones` and its user type `method.decay=cosine`. (Keys of `trainer`, which all methods share, are refused.)
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Acts(NamedTuple):
    """`key`, and all below it, act only where the key `of` has one of `values`."""

    key: str
    of: str
    values: tuple[Any, ...]


class Given(tuple):
    """Any value but null."""

    def __contains__(self, value: object) -> bool:
        return value is not None


GIVEN = Given(("a value",))


def only_if(of: str, values: tuple[Any, ...], *keys: str) -> tuple[Acts, ...]:
    return tuple(Acts(key, of, values) for key in keys)


def without_effect(effects: Iterable[Acts], config: Mapping[str, Any], typed: Iterable[str]) -> list[str]:
    """A line for every key that was typed (`typed`: overrides of the command line) and does nothing in the resolved
    `config`; `effects`: those of its sections.
    """
    rules, lines = list(effects), {}
    for key in typed_keys(typed):
        for rule in rules:
            found, value = _get(config, rule.of)
            if (
                found
                and _get(config, rule.key)[0]
                and value not in rule.values
                and (key == rule.key or key.startswith(f"{rule.key}."))
            ):
                acting = (
                    " or ".join(map(_shown, rule.values))
                    if len(rule.values) < 4
                    else f"{rule.values[0]} to {rule.values[-1]}"
                )
                lines.setdefault(key, f"{key} has no effect with {rule.of}={_shown(value)}; it acts with {acting}")
    return list(lines.values())


def typed_keys(typed: Iterable[str]) -> list[str]:
    """`method.decay` of the override `+method.decay=step`; what is deleted is not among them."""
    return [
        word.lstrip("+").partition("=")[0].partition("@")[0]
        for word in typed
        if "=" in word and not word.startswith("~")
    ]


def _get(config: Any, key: str) -> tuple[bool, Any]:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return False, None
        config = config[part]
    return True, config


def _shown(value: Any) -> str:
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if value is None or isinstance(value, bool)
        else str(value)
    )
