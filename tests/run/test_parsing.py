"""Whatever is parsed is bounded: depth, size, aliases, and what is no file at all."""

import os

import pytest
from hostile_text import DEEP, LAUGHS

from quantlab.run.parsing import ParseError, parse_json, parse_yaml, read_json, read_yaml


@pytest.mark.parametrize(
    "text, reason",
    [
        (LAUGHS, "stands for more than 100,000 values"),
        ("a: &a [*a]\n", "alias \\*a stands for nothing, or for what it is in"),
        ("a: &a {b: &b {c: *a}}\n", "stands for nothing, or for what it is in"),
        ("[" * 200 + "]" * 200, "nested more than 100 levels deep"),
        (DEEP, "nest"),
        ("a:\n" + "".join(" " * n + "a:\n" for n in range(1, 400)), "nested more than 100 levels deep"),
        ("a: " + "x" * 2_000_000, "allowed: up to 1,048,576"),
        ("a: " + "1" * 5000, "limit"),
        ("a: 2026-99-99", "month"),
        ("!!bool x", "x"),
        ("!!python/object/apply:os.mkdir [owned]", "could not determine a constructor"),
        (b"\xff\xfe\xff", "utf-8"),
    ],
)
def test_yaml_beyond_the_bounds_is_refused(text, reason):
    with pytest.raises(ParseError, match=reason):
        parse_yaml(text)


def test_aliases_that_stand_for_little_are_read():
    assert parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}") == {
        "a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[" * 100_000, "nested more than 100"),
        ('{"a":' * 300 + "1" + "}" * 300, "nested more than 100"),
        ("9" * 5000, "limit"),
        ("{", "line 1"),
    ],
)
def test_json_beyond_the_bounds_is_refused(text, reason):
    with pytest.raises(ParseError, match=reason):
        parse_json(text)
    assert parse_json("[" * 100 + "]" * 100)


def test_what_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b"[1]" + b" " * 100)
    for name in ("pipe", "zero"):
        with pytest.raises(ParseError, match="is not a regular file"):
            read_yaml(tmp_path / name)
    with pytest.raises(ParseError, match="more than 64 bytes"):
        read_json(tmp_path / "large", most_bytes=64)
