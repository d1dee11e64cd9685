"""Which runs a report shows, in which order and columns: names and filters as typed, checked against what runs have."""

import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from quantlab.errors import RequestError, did_you_mean, nearest_of
from quantlab.report.metrics import METRICS, is_number, reads_as_number
from quantlab.report.table import LEADING, TRAILING, Row, Spread, cell, metric_names, value_of

FILTER = re.compile(r"(?P<name>[^=<>!]+)(?P<sign>!=|<=|>=|=|<|>)(?P<value>.*)", re.DOTALL)
ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Names:
    """What the columns of `rows` may be called: facts of runs, their metrics, and keys of their configs, of which the
    last part will do where no other key ends alike.
    """

    def __init__(self, rows: Sequence[Row]):
        self.metrics = metric_names(rows)
        self.facts = [*LEADING, "task", *self.metrics, *TRAILING]
        self.keys = list(dict.fromkeys(key for row in rows for key in row["configuration"]))

    def resolve(self, option: str, name: str) -> str:
        """Raises RequestError for a name that no run has, or that several keys end with."""
        if name in self.facts or name in self.keys:
            return name
        ending = [key for key in self.keys if key.endswith(f".{name}")]
        if len(ending) == 1:
            return ending[0]
        if ending:
            raise RequestError(f"{option}: got {name!r}, which may be {' or '.join(ending)}; type one of these")
        known = list(dict.fromkeys([*self.facts, *(key.rpartition(".")[2] for key in self.keys), *self.keys]))
        raise RequestError(f"{option}: got {name!r}, allowed: {nearest_of(name, known)}{did_you_mean(name, known)}")

    def resolve_all(self, option: str, words: str | None) -> tuple[str, ...]:
        """Of names between commas."""
        return tuple(self.resolve(option, word.strip()) for word in (words or "").split(",") if word.strip())


class Filter(NamedTuple):
    """`name` and one of the `values`, in which * and ? stand for letters; or an order, to a number."""

    name: str
    sign: str
    values: list[str]

    def holds(self, row: Row) -> bool:
        value = value_of(row, self.name)
        if self.sign in ORDERS:
            return is_number(value) and ORDERS[self.sign](value, float(self.values[0]))
        return any(_matches(value, wanted) for wanted in self.values) == (self.sign == "=")


def parse_filter(text: str, names: Names) -> Filter:
    """`KEY=VALUE[,VALUE...]`, `KEY!=...`, or `KEY<NUMBER` with any of the four signs of order. Raises RequestError."""
    found = FILTER.fullmatch(text)
    if not found:
        raise RequestError(f"--filter: got {text!r}, allowed: KEY=VALUE, KEY!=VALUE, KEY<NUMBER; type --filter seed=0")
    name, sign, value = names.resolve("--filter", found["name"].strip()), found["sign"], found["value"].strip()
    if sign in ORDERS and not reads_as_number(value):
        raise RequestError(f"--filter: got {text!r}, but {sign} takes a number; type '{name}{sign}1'")
    return Filter(name, sign, [value] if sign in ORDERS else [one.strip() for one in value.split(",")])


def filtered(rows: Sequence[Row], filters: Sequence[Filter]) -> list[int]:
    """The places of the rows for which all filters hold. Raises RequestError, with the values there are, for a filter
    that no row satisfies.
    """
    for one in filters:
        if not any(one.holds(row) for row in rows):
            values = list(dict.fromkeys(_text(value_of(row, one.name)) for row in rows))
            got = f"{one.name}{one.sign}{','.join(one.values)}"
            near = did_you_mean(one.values[0], values)
            raise RequestError(f"--filter: got {got!r}, which no run has; allowed: {nearest_of(got, values)}{near}")
    places = [place for place, row in enumerate(rows) if all(one.holds(row) for one in filters)]
    if not places:
        raise RequestError(f"--filter: no run satisfies all {len(filters)} filters; leave one out")
    return places


def ordered(rows: Sequence[Row], by: Sequence[str], backwards: bool) -> list[Row]:
    """Rows by columns: of a metric the best first, of anything else from little to much; without a value last."""
    rows = list(rows)
    for name in reversed(by):
        better = METRICS[name].better if name in METRICS else "↓"
        have = [row for row in rows if _key(row, name) is not None]
        have.sort(key=lambda row: _key(row, name), reverse=(better == "↑") != backwards)
        rows = have + [row for row in rows if _key(row, name) is None]
    return rows


def _key(row: Row, name: str) -> tuple[int, float, str] | None:
    value = value_of(row, name)
    value = value.mean if isinstance(value, Spread) else value
    if value is None or value != value:
        return None
    return (0, float(value), "") if is_number(value) else (1, 0.0, cell(value))


def _matches(value: Any, wanted: str) -> bool:
    if is_number(value) and reads_as_number(wanted):
        return float(value) == float(wanted)
    return fnmatch.fnmatchcase(_text(value), wanted)


def _text(value: Any) -> str:
    """As typed in an override: `null`, `true`, a number in full."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
