"""Each choice is said once: what a YAML's comment lists, what the schema allows and what the code tells apart agree."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

import quantlab
from quantlab.config.catalog import CONF, options, target_of
from quantlab.config.fields import Strict
from quantlab.config.quantizers.training import TrainedQuantizer
from quantlab.config.sections import Section, by_target, section_of, without_target
from quantlab.config.validation import Root

LIBRARY = Path(quantlab.__file__).parent
# Keys whose value reaches the code that tells it apart under another name
ALIASES = {
    "scale_search": {"search"},
    "prediction": {"kind", "predicted"},
    "batches": {"drawn"},
    "step_loss": {"compared"},
}
# What a library takes as it is: accelerate, diffusers' schedulers, wandb
TAKEN_AS_IT_IS = {"mixed_precision", "beta_schedule", "mode"}
NAMES_OF_MANY_THINGS = {"name", "mode", "part"}  # in code; what the schema allows of them is in the code all the same

ANY_FILE, IN_A_TABLE = "*", "[]"  # how a value is told apart, beside the words themselves


def choices_in(annotation: Any) -> tuple:
    """The values of a `Literal` in an annotation, the "auto" of `Signed` with its true and false; () without one."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    inner = [choices_in(one) for one in get_args(annotation)]
    found = next((one for one in inner if one), ())
    return (*found, True, False) if found and bool in get_args(annotation) else found


def keys_of(section: type[Strict], prefix: str = "") -> Iterator[tuple[str, tuple]]:
    """Dotted key and choices of every key with at least two; keys in lists of mappings have no line of their own."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Strict):
            if not issubclass(inner, Section):  # which is asked for itself
                yield from keys_of(inner, f"{prefix}{name}.")
        elif len(found := choices_in(inner)) > 1 and get_origin(inner) is not list:
            yield f"{prefix}{name}", found


@cache
def comments(file: Path) -> dict[str, str]:
    """By dotted key the comment of its line, and of the lines of comment alone that follow."""
    found: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in file.read_text().splitlines():
        key = re.match(r"( *)([\w]+):", line)
        comment = re.search(r"(?:^| )#(.*)", line)
        if key:
            stack = [entry for entry in stack if entry[0] < len(key[1])] + [(len(key[1]), key[2])]
            flow = re.findall(r"(\w+): ", line.partition("{")[2].partition("}")[0])
            for inner in ([], *([name] for name in flow)):  # weight: {bits: 2}  # 1 to 8, ...
                found[".".join([*(name for _, name in stack), *inner])] = comment[1] if comment else ""
        elif comment and stack and line.startswith(" "):
            found[".".join(name for _, name in stack)] += " " + comment[1].strip()
    return found


def listed(comment: str) -> list[set]:
    """The lists of words in a comment, `a, b (why), or c`, and of numbers, `2 to 8, or 32 = not quantized`."""
    plain = comment
    while (shorter := re.sub(r" ?\([^()]*\)", "", plain)) != plain:
        plain = shorter
    plain = re.sub(r"(\d+) to (\d+)", lambda ends: ", ".join(map(str, range(int(ends[1]), int(ends[2]) + 1))), plain)
    return [set(re.split(r", or |, | or ", run)) for run in re.findall(r"[\w-]+(?:(?:, or |, | or )[\w-]+)+", plain)]


def written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def files_of(section: type[Section]) -> list[Path]:
    """The YAMLs of a section, and the parts that its group's YAMLs build on."""
    group = section.group
    own = [path for path in options(group).values() if section_of(target_of(group, path)) is section]
    return [*(own or options(group).values()), *sorted((CONF / group).glob("_*.yaml"))]


def is_listed(key: str, choices: tuple) -> bool:
    """Words are; of bits those of weights and gradients stand for all."""
    return isinstance(choices[0], str) or key in ("weight.bits", "gradient.bits", "scale")


SECTIONS = list(dict.fromkeys([*by_target().values(), *without_target().values(), TrainedQuantizer]))
KEYS = [(one, key, found) for one in SECTIONS for key, found in keys_of(one) if is_listed(key, found)]


@pytest.mark.parametrize("section, key, choices", KEYS, ids=[f"{one.__name__}.{key}" for one, key, _ in KEYS])
def test_the_comment_of_a_yaml_lists_what_the_schema_allows(section, key, choices):
    at = {key, f"{section.group}.{key}"}  # a YAML of a group holds a section at its root, or under the group's name
    said = [text for file in files_of(section) for name, text in comments(file).items() if name in at and text]
    wanted = {written(choice) for choice in choices}
    wrong = [text for text in said if any(run & wanted and run - wanted for run in listed(text))]
    # A model's YAML need not repeat what that of another says of the same key
    shared = [text for file in (CONF / section.group).glob("*.yaml") for text in [comments(file).get(key)] if text]
    assert any(wanted in listed(text) for text in said or shared), f"{key}: {sorted(wanted)}; its comments: {said}"
    assert not wrong, f"{key} allows {sorted(wanted)}; another list stands in {wrong}"


def test_the_comment_of_the_device_lists_what_the_schema_allows():
    ((key, choices),) = keys_of(Root)
    assert key == "device" and set(choices) in listed(comments(CONF / "config.yaml")[key])


def told_apart() -> dict[str, set[str]]:
    """By name of an attribute or variable the words that the code compares it with, or looks it up in a table by."""
    found: dict[str, set[str]] = defaultdict(set)
    files = [file for file in LIBRARY.rglob("*.py") if file.relative_to(LIBRARY).parts[0] not in ("config", "report")]
    trees = [ast.parse(file.read_text()) for file in files]
    tables: dict[str, set[str]] = defaultdict(set)
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
                keys = {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        tables[target.id] |= keys
                        for inner in node.value.values:  # a table of tables
                            if isinstance(inner, ast.Dict):
                                tables[target.id] |= {one.value for one in inner.keys if isinstance(one, ast.Constant)}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                words = {
                    one.value
                    for side in sides
                    for one in ast.walk(side)
                    if isinstance(one, ast.Constant) and isinstance(one.value, str)
                }
                for side in sides:
                    if name := _name(side):
                        found[name] |= words
            elif isinstance(node, ast.Subscript) and (name := _name(node.slice)):
                table = node.value
                if isinstance(table, ast.Dict):
                    found[name] |= {key.value for key in table.keys if isinstance(key, ast.Constant)} | {IN_A_TABLE}
                while isinstance(table, ast.Subscript):
                    table = table.value
                if isinstance(table, ast.Name) and tables[table.id]:
                    found[name] |= tables[table.id] | {IN_A_TABLE}
            elif isinstance(node, ast.Match) and (name := _name(node.subject)):
                found[name] |= {
                    one.value.value
                    for case in node.cases
                    for one in ast.walk(case.pattern)
                    if isinstance(one, ast.MatchValue) and isinstance(one.value, ast.Constant)
                }
            elif isinstance(node, ast.JoinedStr):  # a file of that name, as its choices are
                for part in node.values:
                    if isinstance(part, ast.FormattedValue) and (name := _name(part.value)):
                        found[name].add(ANY_FILE)
    return found


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@cache
def dispatched() -> dict[str, set[str]]:
    return told_apart()


WORDS = sorted({(key.rpartition(".")[2], found) for _, key, found in KEYS if set(map(type, found)) == {str}})


@pytest.mark.parametrize("key, choices", [entry for entry in WORDS if entry[0] not in TAKEN_AS_IT_IS])
def test_the_code_tells_apart_what_the_schema_allows(key, choices):
    """Every choice; where they are compared one by one, that of the last branch may be unnamed."""
    found = set().union(*(dispatched()[name] for name in (key, *ALIASES.get(key, ()))))
    left = set() if ANY_FILE in found else set(choices) - found
    assert len(left) <= (IN_A_TABLE not in found), f"{key}: nothing in the code tells {left} apart"


def test_the_code_knows_no_choice_that_the_schema_does_not_allow():
    allowed = {choice for _, choices in WORDS for choice in choices} | {ANY_FILE, IN_A_TABLE}
    keys = {key for key, _ in WORDS} - NAMES_OF_MANY_THINGS
    assert {key: dispatched()[key] - allowed for key in keys if dispatched()[key] - allowed} == {}
