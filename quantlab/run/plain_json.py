"""JSON of what was measured: scalars of numpy and torch as numbers; what is not finite as "NaN", "Infinity" or
"-Infinity", which no reader takes for a number or for nothing.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def not_finite(value: Any, place: str = "") -> list[str]:
    """Where numbers of nested mappings and lists are NaN or infinite, such as `uncorrected.fid`."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, (list, tuple)):
        inner = enumerate(value)
    else:
        return [place] if isinstance(value, float) and not math.isfinite(value) else []
    return [bad for key, part in inner for bad in not_finite(part, f"{place}.{key}" if place else str(key))]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return str(value) if isinstance(value, Path) else value
