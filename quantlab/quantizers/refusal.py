"""What a quantization policy cannot have: rules that concern no layer, and layers that are more than their product. All
of it in one line each, with what to type.
"""

import re
import shlex
from collections.abc import Mapping, Sequence

from quantlab.errors import RequestError, did_you_mean
from quantlab.quantizers.layer_kinds import layer_kind
from quantlab.quantizers.policy import Layer, LayerBits, Rule


def require_matches(rules: Sequence[Rule], names: list[str]) -> None:
    """Raises RequestError for the rules of a policy whose pattern is found in no name."""
    problems = []
    for rule in rules:
        if not any(map(rule.pattern.search, names)):
            pattern = rule.pattern.pattern
            near = did_you_mean(pattern.strip("^$").replace("\\", ""), names)
            problems.append(
                f"quantizer.policy: '{pattern}' is found in no layer's name{near or ','} allowed: a part of one"
                f" of {', '.join(names[:3])}, ..., {names[-1]}"
            )
    if problems:
        raise RequestError(*problems)


def unknown_kinds(layers: Mapping[str, Layer]) -> dict[str, str]:
    """Which of `layers` are none of `layer_kinds`: their names, and why."""
    reasons = {}
    for name, layer in layers.items():
        try:
            layer_kind(layer)
        except ValueError as reason:
            reasons[name] = str(reason)
    return reasons


def refusal(refused: Mapping[str, str], planned: Mapping[str, LayerBits], rules: Sequence[Rule]) -> str:
    """One line on `refused` (reasons by name) of the `planned` layers (bits by name): the layers by reason, and the
    policy that leaves them in full precision. It can be pasted into a shell: quoted once for it and once for Hydra, and
    with the `rules` that there are.
    """
    groups: dict[str, list[str]] = {}
    for name, reason in refused.items():
        groups.setdefault(reason, []).append(name)
    reasons = "; ".join(f"{', '.join(group)} ({reason})" for reason, group in groups.items())
    found = f"quantizer: {len(refused)} of {len(planned)} layers cannot be quantized: {reasons}"
    left = [bits for name, bits in planned.items() if name not in refused]
    if not left or all(bits.weight == 32 for bits in left) and any(bits.weight != 32 for bits in planned.values()):
        return f"{found}; without them nothing is left to quantize: choose another model"
    kept = [(exactly(list(refused)), LayerBits(32, 32)), *((rule.pattern.pattern, rule.bits) for rule in rules)]
    typed = ", ".join(
        f"{{modules: {_for_hydra(pattern)}, weight_bits: {bits.weight}, activation_bits: {bits.activation}}}"
        for pattern, bits in kept
    )
    return (
        f"{found}; to leave them in full precision type {shlex.quote(f'quantizer.policy=[{typed}]')}, or choose another"
        " model"
    )


def _for_hydra(text: str) -> str:
    doubled = re.sub(r'(\\+)(?="|$)', r"\1\1", text)  # backslashes count only where a quote follows
    return '"' + doubled.replace('"', '\\"') + '"'


def exactly(names: list[str]) -> str:
    """A regular expression that finds these names and no others."""
    escaped = [re.escape(name) for name in names]
    return f"^({'|'.join(escaped)})$" if len(names) > 1 else f"^{escaped[0]}$"
