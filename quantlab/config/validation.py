"""From a plain mapping to a `RunConfig`, or to every problem at once, each one line that says what to type."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import SerializeAsAny, ValidationError

from quantlab.config.catalog import composed, merged, options
from quantlab.config.effects import Acts
from quantlab.config.fields import Directory, OrNull, Seed, Strict
from quantlab.config.sections import GROUPS, Parts, Section, by_target, section_named, section_of
from quantlab.errors import CorruptFileError, RequestError, did_you_mean, nearest_of
from quantlab.run.directory import RunDirectory


class Root(Strict):
    """The keys that stand outside of any group."""

    seed: Seed
    device: Literal["auto", "cpu", "cuda", "mps"]
    data_dir: Directory
    cache_dir: Directory
    output_dir: Directory
    resume: OrNull[Directory]


class RunConfig(Root):
    """One run, typed: `config.method.group_size`, `config.model.sampler.steps`. Immutable; see `to_plain`."""

    task: SerializeAsAny[Section]
    model: SerializeAsAny[Section]
    quantizer: SerializeAsAny[Section]
    method: SerializeAsAny[Section]
    trainer: SerializeAsAny[Section]
    logger: SerializeAsAny[Section]

    @property
    def effects(self) -> list[Acts]:
        """Which keys act only beside which values, of all sections."""
        return [rule for group in GROUPS for rule in getattr(self, group).effects]


def validate(mapping: Mapping[str, Any]) -> RunConfig:
    """The typed config of a resolved plain mapping. Raises `RequestError` with every problem there is, a line each."""
    config, problems = judged(mapping)
    if config is None:
        raise RequestError(*problems)
    return config


def find_problems(mapping: Mapping[str, Any]) -> list[str]:
    """What `validate` would refuse, a line each."""
    return judged(mapping)[1]


def judged(mapping: Mapping[str, Any], without: Collection[str] = ()) -> tuple[RunConfig | None, list[str]]:
    """The typed config, or None and every problem there is; the groups of `without` are not judged, nor what depends on
    them, and then there is no config.
    """
    problems, root, sections = _judge(mapping, without)
    return (None if problems or without else RunConfig(**root, **sections)), problems


def option_section(group: str, option: str, changes: Mapping[str, Any] | None = None) -> Any:
    """The typed section of an option as its YAML has it, with `changes` over it, nested as in YAML.

    For code that uses a part of a run on its own:
    `LSQPolicy(option_section("quantizer", "lsq", {"weight": {"bits": 4}}))`.
    Raises RequestError.
    """
    section, problems = _section(group, merged(composed(group, option), dict(changes or {})))
    if problems:
        raise RequestError(*problems)
    return section


def load_config(path: str | Path) -> RunConfig:
    """The config that a run left behind, as this version has it (`quantlab.run.formats`). `path`: the run's directory,
    or its config.yaml.

    Raises `RequestError` where the file is missing, is not YAML, or does not hold what this version understands.
    """
    path = Path(path)
    run = RunDirectory(path.parent if path.name == "config.yaml" else path)
    file = run.config_path
    try:
        mapping = run.read_config()
    except FileNotFoundError:
        missing = file if path.is_dir() else path
        raise RequestError(f"{missing}: no such file; name the directory of a run, which holds a config.yaml") from None
    except (OSError, CorruptFileError) as error:
        raise RequestError(f"{file}: not readable ({' '.join(str(error).split())}); restore it or run anew") from None
    if lost := [group for group in GROUPS if mapping.get(group) is None]:
        raise RequestError(f"{file} is cut short: it lacks {', '.join(lost)}; .hydra/config.yaml beside it is a copy")
    try:
        return validate(mapping)
    except RequestError as error:
        raise RequestError(*(f"{file}: {problem}" for problem in error.problems)) from None


def _judge(
    mapping: Mapping[str, Any], without: Collection[str]
) -> tuple[list[str], dict[str, Any], dict[str, Section | None]]:
    """Every problem, the keys outside of groups, and the sections that are right in themselves."""
    problems = list(_foreign_targets(mapping))
    root = {key: value for key, value in mapping.items() if key not in GROUPS}
    try:
        Root.model_validate(root)
    except ValidationError as error:
        problems += _lines(error, (), root, known=[*Root.model_fields, *GROUPS])
    sections: dict[str, Section | None] = dict.fromkeys(GROUPS)
    for group in GROUPS:
        if group not in without:
            sections[group], wrong = _section(group, mapping.get(group))
            problems += wrong
    problems += _cross_checks(Parts(**sections))
    return list(dict.fromkeys(problems)), root, sections


def _cross_checks(parts: Parts) -> Iterator[str]:
    """What the sections say of one another."""
    for section in (parts.method, parts.trainer, parts.model, parts.quantizer, parts.task, parts.logger):
        if section is not None:
            yield from section.check(parts)


def _section(group: str, value: Any) -> tuple[Section | None, list[str]]:
    """The typed section, or None and what is wrong with it."""
    if not isinstance(value, Mapping):
        choices = ", ".join(options(group))
        return None, [f"{group}: got {_shown(value)}, allowed: one of {choices}; type {group}={choices.split(',')[0]}"]
    name, target = value.get("name"), value.get("_target_")
    schema = section_of(target) if target is not None else section_named(group, name)
    if schema is None and target is not None:
        return None, []  # named already, with every other foreign target
    if schema is None:
        return None, [f"{group}: has no _target_ (name: {_shown(name)}); type {group}={next(iter(options(group)))}"]
    if schema.group != group:
        fitting = [target for target, section in by_target().items() if section.group == group]
        allowed = f"allowed: {', '.join(fitting)}; drop {group}._target_, and type {group}=NAME"
        return None, [f"{group}._target_: got a {schema.group}, {target}; {allowed}"]
    try:
        return schema.model_validate(value), []
    except ValidationError as error:
        return None, list(_lines(error, (group,), value))


def _foreign_targets(value: Any, key: str = "") -> Iterator[str]:
    """Every `_target_`, wherever it stands, that is not on the allowlist."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "_target_" and section_of(inner) is None:
                yield (
                    f"{key}_target_: got {_shown(inner)}, which may not be instantiated; allowed: "
                    f"quantlab's own classes only{did_you_mean(inner, by_target())}; drop it"
                )
            else:
                yield from _foreign_targets(inner, f"{key}{name}.")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _foreign_targets(inner, f"{key}{index}.")


def problem_lines(error: ValidationError, prefix: tuple, value: Any) -> list[str]:
    """What is wrong with a mapping that stands under the keys of `prefix`, a line each."""
    return list(_lines(error, prefix, value))


def _lines(error: ValidationError, prefix: tuple, value: Any, known: list[str] | None = None) -> Iterator[str]:
    """pydantic's errors as lines: the dotted key, what was got, what is allowed, what to type."""
    for problem in error.errors():
        location, context = problem["loc"], problem.get("ctx", {})
        key = ".".join(map(str, prefix + location))
        if location[-1:] == ("_target_",) and problem["type"] == "extra_forbidden":
            yield f"{key}: got {_shown(problem['input'])}, but a _target_ may not stand here; remove it"
            continue
        match problem["type"]:
            case "extra_forbidden":
                yield _unknown(prefix, location, value, error, known)
            case "missing" if not _stands_misspelled(location, error):
                yield f"{key}: missing; type {key}=VALUE (+{key}=VALUE where the key itself was taken away)"
            case "literal_error":
                yield _refused(key, problem["input"], _choices(context["expected"]))
            case "refusal":
                allowed, example = context["allowed"], context["example"]
                yield f"{key}: got {_shown(problem['input'])}, allowed: {allowed}; type {key}={example}"
            case "missing":
                continue  # the line of what stands there names it
            case "list_type" | "too_short":
                yield f"{key}: got {_shown(problem['input'])}, allowed: a list of at least one; type {key}=[...]"
            case _:
                yield f"{key}: got {_shown(problem['input'])}, allowed: a mapping; type {key}.KEY=VALUE"


def _stands_misspelled(location: tuple, error: ValidationError) -> bool:
    """Whether an unknown key beside the missing one is nearly its name."""
    *place, name = location
    unknown = [other["loc"] for other in error.errors() if other["type"] == "extra_forbidden"]
    return any([*loc[:-1]] == place and did_you_mean(str(loc[-1]), [str(name)]) for loc in unknown)


def _choices(expected: str) -> list[str]:
    """`['a', 'b', 'c']` of pydantic's "'a', 'b' or 'c'"."""
    return [choice.strip("'") for choice in re.split(r", | or ", expected)]


def _refused(key: str, got: Any, choices: list[str]) -> str:
    near = did_you_mean(got, choices)
    nearest = near.split("'")[1] if near else choices[0]
    advice = f"{near} Type" if near else "; type"
    return f"{key}: got {_shown(got)}, allowed: {', '.join(choices)}{advice} {key}={nearest}"


def _unknown(prefix: tuple, location: tuple, value: Any, error: ValidationError, known: list[str] | None) -> str:
    siblings = known or _declared(error, location, value)
    parent = "".join(f"{part}." for part in prefix + location[:-1])
    near = did_you_mean(str(location[-1]), siblings)
    if near:
        advice = f" Type {parent}{near.split(chr(39))[1]}=VALUE"
    elif siblings:
        shown = nearest_of(str(location[-1]), siblings)
        advice = f", allowed here: {shown}; type {parent}{siblings[0]}=VALUE, or drop {parent}{location[-1]}"
    else:
        advice = f"; drop {parent}{location[-1]}"
    return f"{parent}{location[-1]}: no such key{near}{advice}"


def _declared(error: ValidationError, location: tuple, value: Any) -> list[str]:
    """The keys that the mapping at `location` may hold, as far as its value shows them."""
    wrong = {
        problem["loc"][-1]
        for problem in error.errors()
        if problem["type"] == "extra_forbidden" and problem["loc"][:-1] == location[:-1]
    }
    absent = [
        str(problem["loc"][-1])
        for problem in error.errors()
        if problem["type"] == "missing" and problem["loc"][:-1] == location[:-1]
    ]
    for part in location[:-1]:
        value = value[part]
    return absent + [str(key) for key in value if key not in wrong]


def _shown(value: Any) -> str:
    """A value as a person would type it in YAML, cut where it is long."""
    text = _typed(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _typed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_typed(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_typed, value)) + "]"
    return repr(value)
