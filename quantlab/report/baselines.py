"""The baselines of runs' results as rows of tables."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from quantlab.config.sections import section_in
from quantlab.report.table import Row, grouped, metrics_of

# What a baseline may depend on, from little to much: the first that explains its values is taken.
DEPENDS_ON = ((), ("bits",), ("bits", "method", "settings"))


class _Found(NamedTuple):
    """A baseline as one run, of which `row` is, has it."""

    name: str
    row: Row
    metrics: dict[str, float]


def baseline_rows(runs: Sequence[dict[str, Any]], rows: Sequence[Row]) -> list[Row]:
    """More rows, for the baselines in the results of `runs`, of which `rows` are.

    What a method wants beside it (`row_baselines`) is what the same run gives without a part of it, and stays with the
    run. Of any other, runs that agree on its numbers share one row a seed, or a single one where seeds agree too.
    """
    own, others = [], []
    for run, row in zip(runs, rows, strict=True):
        method, baselines = section_in("method", run["config"]), (run["results"] or {}).get("baseline")
        for name, metrics in baselines.items() if isinstance(baselines, dict) else ():
            found = _Found(name, row, metrics_of(metrics))
            if found.metrics:
                (own if method is not None and name in method.row_baselines else others).append(found)
    shared = grouped(others, key=lambda one: repr([one.name, *(one.row[key] for key in ("task", "protocol", "model"))]))
    return [_row(one, DEPENDS_ON[-1]) for one in own] + [row for group in shared.values() for row in _shared(group)]


def _shared(group: Sequence[_Found]) -> list[Row]:
    for facts in DEPENDS_ON:
        parts = [_by_seed(part) for part in grouped(group, lambda one: repr([one.row[key] for key in facts])).values()]
        if all(_agree(seed) for part in parts for seed in part):
            break
    rows = []
    for part in parts:
        firsts = [seed[0] for seed in part]
        constant = len(firsts) > 1 and _agree(firsts)
        rows += [_row(firsts[0], facts) | {"seed": None}] if constant else [_row(one, facts) for one in firsts]
    return rows


def _by_seed(group: Sequence[_Found]) -> list[list[_Found]]:
    return list(grouped(group, key=lambda one: repr(one.row["seed"])).values())


def _agree(group: Sequence[_Found]) -> bool:
    return all(one.metrics == group[0].metrics for one in group)


def _row(found: _Found, facts: Sequence[str]) -> Row:
    """facts: what the baseline depends on, and is therefore said of it."""
    row, words = found.row, found.name.replace("_", " ")
    whole = "method" in facts
    return {
        "baseline": found.name,
        "method": f"{row['method']}, {words}" if whole else words,
        "settings": row["settings"] if whole else {},
        "configuration": row["configuration"] if whole else {},
        "bits": row["bits"] if "bits" in facts else "",
        **{key: row[key] for key in ("task", "model", "protocol", "seed")},
        **found.metrics,
        "notes": "",
    }
