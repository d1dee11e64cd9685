"""Overrides `key=value` one by one: their grammar, the groups and options they choose, the keys they set."""

import math
import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from quantlab.cli.search_space import dimension_of
from quantlab.config.catalog import CONF, groups, options
from quantlab.errors import did_you_mean, listed, nearest_of
from quantlab.run.parsing import DEEPEST

MOST_JOBS = 10_000  # of a sweep
LAUNCHING = ("hydra.launcher.", "hydra.sweeper.")  # of Hydra's keys those that YAML of ours has


def parse(words: Iterable[str], multirun: bool, searching: bool = False) -> tuple[list[Override], list[str]]:
    """The overrides that follow Hydra's grammar, and one problem for each that does not. Call within Hydra's
    context. searching: several values are the space of a search, and stay as they are.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed, problems = [], []
    for word in words:
        if _depth(word) > DEEPEST:
            problems.append(f"{word[:40]}...: brackets are nested more than {DEEPEST} levels deep; type a plain value")
            continue
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            problems.append(_syntax_problem(parser, word, str(error).splitlines()[0]))
            continue
        # Hydra sets this only when it parses all words at once.
        override.input_line = word
        key = override.key_or_group
        if problem := _form_problem(override):
            problems.append(f"{word}: {problem}")
        elif override.is_sweep_override() and not multirun:
            problems.append(f"{word}: several values are only for sweeps; type quantlab -m {shlex.quote(word)}")
        elif override.is_sweep_override() and key in ("output_dir", "resume"):
            problems.append(f"{word}: cannot be swept, each job has its own directory below it; type one value")
        elif override.is_sweep_override() and override.is_hydra_override():
            problems.append(f"{word}: Hydra's own keys cannot be swept; type one value")
        elif key == "hydra.mode":
            problems.append(f"{word}: sweeps are started with -m; type quantlab -m instead")
        elif searching and override.is_sweep_override() and override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
            dimension = dimension_of(override)
            if isinstance(dimension, str):
                problems.append(f"{word}: {dimension}")
            else:
                parsed.append(override)
        elif override.is_sweep_override() and override.value_type is not ValueType.SIMPLE_CHOICE_SWEEP:
            values = _swept_values(override)
            if isinstance(values, str):
                problems.append(f"{word}: {values}")
                continue
            # Resolved here, once: Hydra would shuffle again, and match other groups and missing folders
            word = f"{override.get_key_element()}=choice({','.join(values)})"
            parsed.append(replace(parser.parse_override(word), input_line=word))
        else:
            parsed.append(override)
    return parsed, problems


def _form_problem(override: Override) -> str:
    """What Hydra's grammar allows and no config has."""
    key, group = override.key_or_group, is_group(override)
    if not key.strip("."):
        return "names no key; type KEY=VALUE"
    if override.is_force_add() and group:
        return f"an option is chosen without ++; type {key}={override.get_value_element_as_str()}"
    if override.is_delete() and group and key != "experiment":
        return f"every run has a {key}; type {key}={next(iter(options(key)))}, or another of quantlab --help {key}"
    if override.is_delete() and group and override.value() is not None and not isinstance(override.value(), str):
        return f"an option has a name; type ~{key}"
    return ""


def _depth(word: str) -> int:
    """How deeply brackets are nested, whether or not they match: Hydra's parser recurses into them."""
    deepest = depth = 0
    for letter in word:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _swept_values(override: Override) -> list[str] | str:
    """The values of `choice()`, `range()`, `glob()`, `shuffle()`, `sort()` in Hydra's grammar, or the problem with
    them.
    """
    if override.is_interval_sweep():
        key = override.key_or_group
        return f"an interval has no values to iterate over; type them, as in {key}=0,1,2, or hydra/sweeper=optuna"
    if override.value_type is ValueType.RANGE_SWEEP:
        found, key = override.value(), override.key_or_group
        if found.step == 0 or not math.isfinite(found.start) or not math.isfinite(found.stop):
            return f"never ends, allowed: a range of finite numbers by a step other than 0; type {key}=range(0,3)"
        if (found.stop - found.start) / found.step > MOST_JOBS:
            return f"holds more than {MOST_JOBS:,} values; type fewer"
    if override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
        return list(override.sweep_string_iterator()) or (
            f"holds no value, allowed: at least one; type {override.key_or_group}=range(0,3)"
        )
    group, patterns = override.key_or_group, override.value()
    if not is_group(override):
        return (
            f"glob chooses among the options of a group, allowed: {', '.join(groups())}; type the values, as in"
            f" {group}=0,1,2"
        )
    names = [
        name for name in options(group) if _is_like(name, patterns.include) and not _is_like(name, patterns.exclude)
    ]
    allowed = listed(patterns.include[0].strip("*"), options(group), f"quantlab --help {group}")
    example = next(iter(options(group)))
    return list(map(as_value, names)) or f"matches no {group}, allowed: a pattern of {allowed}; type {group}={example}"


def _is_like(name: str, patterns: Iterable[str]) -> bool:
    # As in paths, "*" ends at "/": experiment=glob(FOLDER/*).
    return any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


def is_group(override: Override) -> bool:
    """Whether the override chooses an option of one of our groups."""
    return override.key_or_group in groups()


def group_problems(overrides: Iterable[Override]) -> dict[str, str]:
    """The problem of each override that chooses an unknown option, by word."""
    problems = {}
    for override in filter(is_group, overrides):
        group, chosen = override.key_or_group, override.value()
        allowed = list(options(group))
        if override.is_add() and (CONF / group).is_dir() or override.package is not None and not override.is_add():
            place = f"at {override.package}" if override.package is not None else "a second time"
            value = override.get_value_element_as_str()
            problems[override.input_line] = (
                f"{override.get_key_element()}: no {group} is chosen {place}; type {group}={value}"
            )
            continue
        for option in chosen if isinstance(chosen, list) else [chosen]:
            if option is None or override.is_delete() or option in allowed:
                continue
            got = option if isinstance(option, str) else override.get_value_element_as_str()
            near = did_you_mean(got, allowed)
            advice = (
                f" Type {group}={_quoted_in(near)}"
                if near
                else f"; type quantlab --help {group} for a description of each"
            )
            shown = listed(got, allowed, f"quantlab --help {group}") or "none so far"
            problems[override.input_line] = f"{group}: got '{got}', allowed: {shown}{near}{advice}"
    return problems


def key_problems(overrides: Iterable[Override], known: Collection[str]) -> dict[str, str]:
    """The problem of each override of a key outside `known`, the dotted keys of the composed config, by word."""
    problems = {}
    for override in overrides:
        key = override.key_or_group
        if is_group(override) or override.is_add() or override.is_force_add() or key in known:
            continue
        if key.startswith(("hydra.", "hydra/")) and not key.startswith(LAUNCHING):
            continue
        value = override.get_value_element_as_str() if not override.is_delete() else ""
        parent, _, leaf = key.rpartition(".")
        near, others = _nearest_key(key, known)
        if near:
            advice = f"{near} Type {_quoted_in(near)}={value}"
        elif others:
            place = f"{parent}." if parent in known else ""
            advice = f", allowed here: {nearest_of(leaf, others)}; type {place}{others[0]}=VALUE"
        else:
            advice = f": {parent} has no keys; type {parent}=VALUE"
        problems[override.input_line] = f"{key}: no such key{advice}"
    return problems


def word_problem(override: Override, reason: str) -> str:
    """The line of a word that Hydra cannot compose, alone; `reason`: in its words."""
    key, word = override.key_or_group, override.input_line
    value = "" if override.is_delete() else override.get_value_element_as_str()
    if is_group(override):
        return f"{word}: its YAML cannot be composed ({reason}); mend it, or type another {key}"
    if key in ("hydra/launcher", "hydra/sweeper"):
        names = GlobalHydra.instance().config_loader().get_group_options(key)
        near = did_you_mean(value, names)
        advice = (
            f" Type {key}={_quoted_in(near)}" if near else f"; type {key}={names[0]}, or install the plugin's package"
        )
        return f"{key}: got '{value}', allowed: {', '.join(names)}{near}{advice}"
    if "${" in word:
        return f"{key}: got {value}, whose ${{...}} leads nowhere; type {key}=VALUE, or ${{KEY}} of a key that is there"
    if key.startswith(("hydra.", "hydra/")):
        return f"{word}: Hydra has no such setting, or it takes no such value; drop it"
    if override.is_delete():
        return f"{word}: there is no such key, or it has another value; type ~{key}, or drop it"
    if override.is_add():
        return f"{word}: {key} is there already; type {key}={value}"
    return f"{key}: got {value}, which cannot stand there; type {key}=VALUE"


def dotted_keys(value: Any, prefix: str = "") -> Iterator[str]:
    """Every key of nested mappings and lists: `model`, `model.unet`, `model.unet.attention.0`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield f"{prefix}{name}"
        yield from dotted_keys(inner, f"{prefix}{name}.")


def as_value(text: str) -> str:
    """`text` in Hydra's grammar, quoted if necessary."""
    return text if re.fullmatch(r"[\w./:@%+-]+", text, flags=re.ASCII) else "'" + text.replace("'", "\\'") + "'"


def _nearest_key(key: str, known: Collection[str]) -> tuple[str, list[str]]:
    """`"; did you mean ...?"` or an empty string, and the keys at the place of `key`."""
    homes = [name for name in known if name.endswith(f".{key}")]
    if homes:
        return f"; did you mean {' or '.join(repr(name) for name in homes[:3])}?", []
    parent, dot, leaf = key.rpartition(".")
    if parent not in known:
        return did_you_mean(key, known), sorted(name for name in known if "." not in name)
    # with their common parent, any two keys would look similar
    leaves = sorted(
        name.removeprefix(parent + dot)
        for name in known
        if name.startswith(parent + dot) and "." not in name.removeprefix(parent + dot)
    )
    near = did_you_mean(leaf, leaves)
    return (f"; did you mean '{parent}.{_quoted_in(near)}'?" if near else ""), leaves


def _syntax_problem(parser: OverridesParser, word: str, reason: str) -> str:
    key, equals, value = word.partition("=")
    if not equals:
        homes = [f"{group}={word}" for group in groups() if word in options(group)]
        near = f"; did you mean {' or '.join(homes)}?" if homes else ""
        return f"{word}: not of the form key=value{near} Type {homes[0]}" if homes else _no_form(word)
    quoted = f"{key}='{value}'"
    try:
        parser.parse_override(quoted)
    except HydraException:
        return f"{word}: not an override that Hydra can read ({reason}); type key=value"
    return f'{word}: not an override that Hydra can read ({reason}); to take the value as text, type "{quoted}"'


def _no_form(word: str) -> str:
    named = re.match(r"[~+]*([\w.]+)", word)
    return f"{word}: not of the form key=value; type {named[1] if named else 'KEY'}=VALUE"


def _quoted_in(near: str) -> str:
    return near.split("'")[1]
