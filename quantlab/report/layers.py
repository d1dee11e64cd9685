"""What a run quantized, in words: from its layers.json (what an entry holds:
`quantlab.quantizers.layers.describe_layers`).
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from quantlab.report.metrics import format_bits

Layers = Mapping[str, Mapping[str, Any]]

NAMED = 3  # names shown of a list
REASONS = {
    "policy": "left out by the quantizer's section or its policy",
    "first": "the first layer",
    "last": "the last layer",
    "kind": "a kind that is not quantized",
    "never called": (
        "layers that the network holds and never calls: it does without them, or takes their weights itself"
    ),
    "attention product": "products of attention, or of other two activations",
}


def quantized_share(layers: Layers, bits: Mapping[str, int]) -> dict[str, Any]:
    """`weights` and `multiplications`: which fraction of the network's parameters, biases and normalization among them,
    and of the multiplications of a forward pass, with both factors, is quantized, to whatever bits. `other_bits`: names
    of the parts whose bits are not the run's `bits`, by their bits as W8A8.
    """
    others = defaultdict(list)
    for name, entry in layers.items():
        own = {"weight": bits["weight"] if entry["weight"] is None else entry["weight"], "activation": entry["input"]}
        if 32 not in own.values() and own != {part: bits[part] for part in own}:
            others[format_bits(own) if entry["weight"] is not None else f"A{entry['input']}"].append(name)
    return {
        "weights": sum(entry["parameters"] for entry in layers.values() if entry["weight"] not in (None, 32)),
        "multiplications": sum(
            entry["multiplications"] for entry in layers.values() if 32 not in (entry["weight"], entry["input"])
        ),
        "other_bits": dict(others),
    }


def quantized_words(share: Mapping[str, Any] | None) -> str:
    """`98.2 % of weights, 97.5 % of multiplications (conv1, fc in W8A8)`, or nothing where a run says nothing of it."""
    if not share:
        return ""
    others = "; ".join(f"{_listed(names)} in {bits}" for bits, names in share.get("other_bits", {}).items())
    return f"{_percent(share['weights'])} of weights, {_percent(share['multiplications'])} of multiplications" + (
        f" ({others})" if others else ""
    )


def full_precision_section(layers: Layers) -> str:
    """A section of report.md: what stays in full precision, by reason, with its shares. Empty where nothing is left."""
    left = defaultdict(lambda: defaultdict(list))
    for name, entry in layers.items():
        if "reason" in entry:
            left[entry["reason"]][_what_stays(entry)].append(name)
    if not left:
        return ""
    lines = [
        "## In full precision",
        "",
        (
            "Of the network's parameters (biases and normalization among them) and of the multiplications of a forward"
            " pass:"
        ),
        "",
        "| why | what | weights | multiplications |",
        "|---|---|---:|---:|",
    ]
    for reason in sorted(left, key=list(REASONS).index):
        for what, names in left[reason].items():
            shares = [sum(layers[name][key] for name in names) for key in ("parameters", "multiplications")]
            listed = [f"`{name}`" for name in names if name != "(biases of layers)"]
            cells = [REASONS[reason], what + (f": {_listed(listed)}" if listed else ""), *map(_percent, shares)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _what_stays(entry: Mapping[str, Any]) -> str:
    if entry["weight"] in (None, 32) and entry["input"] == 32:
        return entry["kind"]
    return f"{'weight' if entry['weight'] == 32 else 'input'} of {entry['kind']}"


def _listed(names: list[str]) -> str:
    """The names, or the first and the number of the rest."""
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: NAMED - 1])} and {len(names) - NAMED + 1} more"


def _percent(share: float) -> str:
    """With one decimal; only all of it is 100 %, and only nothing 0 %."""
    text = f"{100 * share:.1f}"
    if 0 < share < 1 - 1e-9 and text in ("0.0", "100.0"):
        return "< 0.1 %" if text == "0.0" else "> 99.9 %"
    return f"{text.removesuffix('.0') if text in ('0.0', '100.0') else text} %"
