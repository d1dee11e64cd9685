"""Short names of runs in pictures: no two configurations have the same, and none says more than it must."""

from collections.abc import Sequence
from typing import Any

from quantlab.report.table import cell, grouped

LONGEST = 28  # letters of one value


def short_labels(names: Sequence[str], facts: Sequence[dict[str, Any]]) -> list[str]:
    """One label an entry: its name, and of its facts the fewest that tell it from the others of its name.

    Entries equal in name and facts have the same label.
    """
    labels = list(names)
    for group in grouped(range(len(names)), key=lambda index: names[index]).values():
        keys = _telling([facts[index] for index in group])
        for index in group:
            own = {key: facts[index][key] for key in keys if facts[index].get(key) is not None}
            words = [f"{_short(key, keys)} {_value(value)}" for key, value in own.items()]
            labels[index] = f"{names[index]} ({', '.join(words)})" if words else names[index]
    return _unique(labels, facts)


def _telling(facts: Sequence[dict[str, Any]]) -> list[str]:
    """The fewest keys, chosen one by one, that tell apart all of `facts` that differ."""
    whole = len({_key(one) for one in facts})
    keys = list(dict.fromkeys(key for one in facts for key in one))
    texts = {key: [_value(one.get(key)) for one in facts] for key in keys}
    keys = [key for key in keys if len(set(texts[key])) > 1]
    chosen: list[str] = []
    parts: list[tuple[str, ...]] = [()] * len(facts)
    while keys and len(set(parts)) < whole:
        gains = {key: len({(*part, text) for part, text in zip(parts, texts[key])}) for key in keys}
        best = max(keys, key=lambda key: gains[key])
        if gains[best] == len(set(parts)):
            break
        chosen.append(best)
        parts = [(*part, text) for part, text in zip(parts, texts[best])]
    return chosen


def _unique(labels: Sequence[str], facts: Sequence[dict[str, Any]]) -> list[str]:
    """Numbers what is still alike: facts that differ only beyond what a label shows of them."""
    seen: dict[str, dict[str, int]] = {}
    for label, fact in zip(labels, facts, strict=True):
        numbers = seen.setdefault(label, {})
        numbers.setdefault(_key(fact), len(numbers) + 1)
    return [
        label if (number := seen[label][_key(fact)]) == 1 else f"{label} #{number}"
        for label, fact in zip(labels, facts, strict=True)
    ]


def _key(fact: dict[str, Any]) -> str:
    return repr(sorted(fact.items(), key=repr))


def _short(key: str, keys: Sequence[str]) -> str:
    last = key.rpartition(".")[2]
    if last == "name" and "." in key:
        return key.split(".")[-2].replace("_", " ")
    unlike = sum(other.rpartition(".")[2] == last for other in keys) == 1
    return (last if unlike else ".".join(key.split(".")[-2:])).replace("_", " ")


def _value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else cell(value)
    text = text.rstrip("/").rpartition("/")[2] if isinstance(value, str) else text
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
