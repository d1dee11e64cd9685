"""Read what runs left in their directories."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from quantlab.errors import CorruptFileError, RequestError
from quantlab.run.directory import RESULTS_SCHEMA, RunDirectory

FILES = {"status.json", "results.json"}  # that make a directory a run's
KINDS = {"baseline": dict, "protocol": dict, "cost": dict, "provenance": dict, "diagnostics": dict, "notes": list}


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Every run directory at or below `paths`, each once, sorted as a person counts: seed=9 before seed=10.

    Raises:
        RequestError: a path that is not a directory.
    """
    found: set[Path] = set()
    for path in map(Path, paths):
        if not path.is_dir():
            raise RequestError(f"{path} is not a directory; give run directories, or folders that hold some")
        # passes over what is removed while it looks
        found |= {Path(folder).resolve() for folder, _, files in os.walk(path) if not FILES.isdisjoint(files)}
    return sorted(found, key=_as_counted)


def _as_counted(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def read_run(directory: Path) -> dict[str, Any]:
    """What one run says of itself.

    Returns `directory` (Path), `state` (str; "unknown" where status.json is missing or unreadable), `error`
    (str | None), `results` (dict; None for a run that has not completed) and `config` (dict, {} where there is none).

    Raises:
        CorruptFileError: results.json is there but is no results file, or one of another schema; or the run is gone.
    """
    run = RunDirectory(directory)
    status = run.read_status()
    found = {
        "directory": run.path,
        "state": str(status.get("state", "unknown")),
        "error": status.get("error"),
        "results": _results(run),
        "config": _config(run),
    }
    if not run.path.is_dir():
        raise CorruptFileError(f"{run.path} was removed while it was read")
    return found


def _results(run: RunDirectory) -> dict[str, Any] | None:
    results = run.read_results()
    if results is None:
        return None
    schema = results.get("schema", RESULTS_SCHEMA)
    if schema != RESULTS_SCHEMA:
        raise CorruptFileError(f"{run.results_path} is of schema {schema!r}, but this version reads {RESULTS_SCHEMA}")
    for key, kind in KINDS.items():
        if results.get(key) is not None and not isinstance(results[key], kind):
            raise CorruptFileError(f"{run.results_path} is damaged ({key} is no {kind.__name__})")
    return results


def _config(run: RunDirectory) -> dict[str, Any]:
    """What only describes a run must not hide the run's numbers when it is damaged."""
    try:
        return run.read_config()
    except (OSError, CorruptFileError, RequestError):
        return {}


def flatten(mapping: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and leaf value of a nested mapping: {"a": {"b": 1}} yields ("a.b", 1)."""
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def short_path(path: Path) -> str:
    """Relative to the current directory where it lies below, else absolute."""
    path, here = Path(path).resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
