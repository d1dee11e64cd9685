"""Read what runs left in their directories (design: status.json, results.json, config.yaml, metrics.jsonl)."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from quantlab.errors import CorruptFileError, RequestError

ERRORS = ("step_error", "accumulated_error")  # of each curve in figures/denoising.json, one value per denoising step
REQUIRED = {"method": str, "task": str, "model": str, "bits": dict, "metrics": dict}


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Every run directory at or below `paths`, sorted, each once.

    Raises:
        RequestError: a path that is not a directory.
    """
    found = set()
    for path in map(Path, paths):
        if not path.is_dir():
            raise RequestError(f"{path} is not a directory; give run directories, or folders that hold some")
        for name in ("status.json", "results.json"):
            found.update(file.parent.resolve() for file in path.rglob(name))
    return sorted(found)


def read_run(directory: Path) -> dict[str, Any]:
    """What one run says of itself.

    Returns `directory` (Path), `state` (str; "unknown" where status.json is missing or unreadable), `error`
    (str | None), `results` (dict; None for a run that has not completed) and `config` (dict, {} where there is none).

    Raises:
        CorruptFileError: results.json is there but is no results file.
    """
    directory = Path(directory)
    status = _mapping(_lenient(directory / "status.json", json.loads))
    return {
        "directory": directory,
        "state": str(status.get("state", "unknown")),
        "error": status.get("error"),
        "results": _read_results(directory / "results.json"),
        "config": _mapping(_lenient(directory / "config.yaml", yaml.safe_load)),
    }


def read_typed(directory: Path) -> list[str]:
    """The overrides that were typed to start the run, from .hydra/overrides.yaml; [] where it is missing."""
    typed = _lenient(Path(directory) / ".hydra" / "overrides.yaml", yaml.safe_load)
    return [str(word) for word in typed] if isinstance(typed, list) else []


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, in order; [] where there is none. A torn last line (the run was killed) is left out.

    Raises:
        CorruptFileError: any other line that is no JSON object.
    """
    path = Path(directory) / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):
            raise CorruptFileError(f"{path}: line {number} is no JSON object")
    return rows


def read_denoising(directory: Path) -> dict[str, Any] | None:
    """figures/denoising.json (the errors along denoising), or None where the run left none.

    Raises:
        CorruptFileError: it is there but cannot be read, or its curves are not one value per denoising step.
    """
    path = Path(directory) / "figures" / "denoising.json"
    if not path.is_file():
        return None
    try:
        series = json.loads(path.read_text(encoding="utf-8"))
        steps = len(series["timesteps"])
        lengths = {len(curve[key]) for curve in series["curves"].values() for key in ERRORS}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    if not lengths <= {steps}:
        raise CorruptFileError(f"{path} is damaged (curves of {sorted(lengths)} values for {steps} denoising steps)")
    return series


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


def _read_results(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFileError(f"{path} is damaged ({error})") from error
    for key, kind in REQUIRED.items():
        if not isinstance(_mapping(results).get(key), kind):
            raise CorruptFileError(f"{path} is damaged (no {key})")
    return results


def _lenient(path: Path, parse) -> Any:
    """The parsed file, or None: what only describes a run must not hide the run's numbers when it is damaged."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
