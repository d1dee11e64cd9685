"""What ties a file that is read back to its run: the run's identity, and the config that its numbers come from.

Every checkpoint and saved model carries `bound`: `run`, drawn when the run began and kept in config.yaml, and
`config_sha256`, of config.yaml without what only says where and how the run is carried out. Files of earlier versions
carry none, and are read as they were.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantlab.errors import RequestError

KEY = "bound"  # in the facts of a saved state
IDENTITY = "run_identity"  # in config.yaml
# Keys, wherever they stand, whose values make no other numbers: they may change with the machine.
PLACES = ("output_dir", "resume", "cache_dir", "data_dir", "download", "device", "num_workers", "logger")


def binding_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the files of a run carry. config: config.yaml as it stands there, so that no later version reads another."""
    text = json.dumps(_without_places(config), sort_keys=True, separators=(",", ":"), default=str)
    return {"run": config.get(IDENTITY), "config_sha256": hashlib.sha256(text.encode()).hexdigest()}


def require_bound(facts: Mapping[str, Any], own: Mapping[str, Any], file: Path, differs: str = "") -> None:
    """Raises RequestError where the facts of `file` are of another run than `own`, or of this run with another config.

    differs: which keys of config.yaml were changed since, as far as that is known.
    """
    found = facts.get(KEY)
    if found is None or found == own:
        return
    if found.get("run") != own["run"]:
        of = str(found.get("run"))[:8]
        raise RequestError(
            f"{file} belongs to another run ({of}, this is {str(own['run'])[:8]}): put back this run's own file, or"
            " remove it"
        )
    raise RequestError(
        f"{file} was made with another config than config.yaml says now{differs}: put config.yaml back as it was"
        " (.hydra/config.yaml is a copy), or start a new run with what was changed"
    )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """` (seed: 0 then, 1 now)` for the keys that differ and matter, the first three; nothing where none does."""
    old, new = dict(_leaves(_without_places(before))), dict(_leaves(_without_places(now)))
    keys = [key for key in [*old, *(key for key in new if key not in old)] if old.get(key, ...) != new.get(key, ...)]
    shown = [f"{key}: {old.get(key, 'absent')} then, {new.get(key, 'absent')} now" for key in keys[:3]]
    return f" ({'; '.join([*shown, *(['...'] if len(keys) > 3 else [])])})" if keys else ""


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_places(inner) for key, inner in value.items() if key not in PLACES}
    return [_without_places(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
