"""YAML and JSON that somebody else may have written: the one place that parses them, within bounds.

A few bytes of YAML aliases can stand for gigabytes, deep nesting ends Python's stack, and a pipe or a device in the
place of a file never ends. Whatever is read from a run, a folder of configs or a model goes through here.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEEPEST = 100  # levels of nesting
MOST_VALUES = 100_000  # of a YAML file, with every alias written out
MOST_YAML = 1 << 20  # bytes
MOST_JSON = 1 << 28

# libyaml's where PyYAML was built with it: the same values, ten times as fast
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ParseError(ValueError):
    """Not YAML, or not JSON, or beyond the bounds; the message is the reason alone, on one line."""


def read_yaml(path: str | Path) -> Any:
    """The plain data in a YAML file. Raises: ParseError; OSError."""
    return parse_yaml(read_bounded(path, MOST_YAML))


def read_json(path: str | Path, most_bytes: int = MOST_JSON) -> Any:
    """The plain data in a JSON file. Raises: ParseError; OSError."""
    return parse_json(read_bounded(path, most_bytes))


def parse_yaml(text: str | bytes) -> Any:
    """The plain data in `text` (bytes: UTF-8). Raises: ParseError."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
        _require_bounded(text)
        return yaml.load(text, LOADER)
    except ParseError:
        raise
    except Exception as error:  # of a wrong tag or date PyYAML raises almost anything
        raise ParseError(_one_line(error)) from None


def parse_json(text: str | bytes) -> Any:
    """The plain data in `text` (bytes: UTF-8). Raises: ParseError."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ParseError(_too_deep()) from None
    except ValueError as error:
        raise ParseError(_one_line(error)) from None
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return value
    raise ParseError(_too_deep())


def read_bounded(path: str | Path, most_bytes: int) -> bytes:
    """The bytes of a regular file. Raises: ParseError for any other kind, which might never end, and for one that is
    too large; OSError.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ParseError("is not a regular file")
    with open(path, "rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ParseError(f"has more than {most_bytes:,} bytes")
    return data


def _require_bounded(text: str) -> None:
    """Raises ParseError for YAML that is nested too deeply, or whose aliases stand for too much or for themselves."""
    if len(text) > MOST_YAML:
        raise ParseError(f"has {len(text):,} characters, allowed: up to {MOST_YAML:,}")
    sizes: dict[str, int] = {}  # values that an anchor stands for
    open_nodes: list[list[Any]] = [[None, 0]]  # anchor, and values so far
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            sizes[anchor] = size
            open_nodes[-1][1] += size
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = 1
            open_nodes[-1][1] += 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ParseError(f"the alias *{event.anchor} stands for nothing, or for what it is in")
            open_nodes[-1][1] += sizes[event.anchor]
        if len(open_nodes) > DEEPEST + 1:
            raise ParseError(_too_deep())
        if open_nodes[-1][1] > MOST_VALUES:
            raise ParseError(f"stands for more than {MOST_VALUES:,} values, aliases written out")


def _inside(value: Any) -> Iterator[Any]:
    """The mappings and lists directly inside `value`."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (one for one in inner if isinstance(one, (dict, list)))


def _too_deep() -> str:
    return f"is nested more than {DEEPEST} levels deep"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
