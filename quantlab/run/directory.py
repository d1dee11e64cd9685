"""What a run leaves behind: one directory with its config, state, metrics, results and log.

Every file but the two that grow (`metrics.jsonl`, `run.log`) is replaced as a whole, so that a reader never meets half
a file, whenever the run was killed.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from tqdm import tqdm

from quantlab.errors import CorruptFileError, RequestError
from quantlab.run.atomic_files import atomic_write, create_whole, remove_leftovers

STATES = ("running", "completed", "failed", "interrupted")

RESULTS_SCHEMA = 1
RESULTS_KEYS: dict[str, tuple[str, ...]] = {
    "method": (),
    "task": (),
    "model": (),
    "seed": (),
    "bits": ("weight", "activation", "gradient"),
    "metrics": (),
    "baseline": (),
    "protocol": (),
    "cost": ("seconds", "steps", "peak_memory_bytes"),
    "provenance": ("quantlab", "commit", "torch", "device", "config_sha256"),
}

logger = logging.getLogger("quantlab")


class RunDirectory:
    """The directory of one run. Made by `create` for a new run, by `open` to go on with one."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.status_path = self.path / "status.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.results_path = self.path / "results.json"
        self.layers_path = self.path / "layers.json"
        self.report_path = self.path / "report.md"
        self.log_path = self.path / "run.log"
        self._logged: set[tuple[int, frozenset[str]]] = set()

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], typed: Sequence[str]) -> "RunDirectory":
        """Start a run at `path`, in state `running`: `config` is the resolved config, `typed` the user's overrides.

        Raises: RequestError when `path` already holds a run or cannot be written to.
        """
        run = cls(path)
        if run.holds_a_run():
            raise run._taken()
        resolved = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            # First, and at one stroke: this file makes the directory a run, and this process the one whose run it is. A
            # run that is killed before it can simply be started again, and one killed after it gone on with.
            create_whole(run.config_path, resolved)
            run.write_status("running")
            hydra = run._folder(".hydra")
            atomic_write(hydra / "config.yaml", resolved)
            atomic_write(hydra / "overrides.yaml", yaml.safe_dump(list(typed), allow_unicode=True))
        except OSError as error:
            if isinstance(error, FileExistsError) and run.holds_a_run():
                raise run._taken() from None
            raise RequestError(
                f"cannot write to {run.path} ({error.strerror}); choose another place with output_dir=..."
            ) from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """Go on with the run at `path`: what a kill tore is cut off or removed; the state stays as it is.

        Raises: RequestError when no run is there or it cannot be written to.
        """
        run = cls(path)
        if not run.holds_a_run():
            raise RequestError(
                f"{run.path} holds no run to go on with ({run.config_path.name} is missing);"
                " resume= takes the directory of an earlier run, such as outputs/DATE/TIME"
            )
        try:
            remove_leftovers(run.path)
            run._mend_metrics()
        except OSError as error:
            raise RequestError(f"cannot write to {run.path} ({error.strerror}), which resume= must") from error
        return run

    def _taken(self) -> RequestError:
        return RequestError(
            f"{self.path} already holds a run; go on with it by resume={self.path}, or choose another output_dir"
        )

    @property
    def checkpoints(self) -> Path:
        return self._folder("checkpoints")

    @property
    def figures(self) -> Path:
        return self._folder("figures")

    @property
    def samples(self) -> Path:
        return self._folder("samples")

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def holds_a_run(self) -> bool:
        return self.config_path.is_file()

    def read_config(self) -> dict[str, Any]:
        """The resolved config. Raises: CorruptFileError when `config.yaml` is no mapping in YAML."""
        try:
            config = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            config = None
        if not isinstance(config, dict):
            raise CorruptFileError(f"{self.config_path} is damaged; .hydra/config.yaml beside it is a copy")
        return config

    def read_typed(self) -> list[str]:
        """The overrides that the user typed; [] where a kill or an accident left none: they only describe the run."""
        try:
            typed = yaml.safe_load((self.path / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            return []
        return [str(word) for word in typed] if isinstance(typed, list) else []

    def read_status(self) -> dict[str, Any]:
        """`state`, `error`, `exit_code`, as last written."""
        return json.loads(self.status_path.read_text(encoding="utf-8"))

    def state(self) -> str | None:
        """The `state` of status.json; None where the file is missing or torn."""
        try:
            return self.read_status()["state"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_status(self, state: str, error: str | None = None, exit_code: int | None = None) -> None:
        """Write `status.json`; `state` is one of `STATES`, and `error` is put on one line."""
        if state not in STATES:
            raise ValueError(f"state is {state!r}, but must be one of {', '.join(STATES)}")
        error = " ".join(error.split()) if error else None
        atomic_write(self.status_path, _json({"state": state, "error": error, "exit_code": exit_code}, indent=2))

    def log_metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line, `step` first; NaN and infinities become null.

        A line for the same step with the same names is written once: a resumed run repeats the same bits.
        """
        key = (step, frozenset(values))
        if key in self._logged:
            return
        with open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(_json({"step": step, **values}) + "\n")
        self._logged.add(key)

    def _mend_metrics(self) -> None:
        if not self.metrics_path.exists():
            return
        data = self.metrics_path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.metrics_path, len(whole))
        for line in whole.splitlines():
            try:
                names = json.loads(line)
                self._logged.add((names.pop("step"), frozenset(names)))
            except (ValueError, KeyError, AttributeError, TypeError):
                # Bytes that rotted in the middle of the file: what stands around them is still worth keeping.
                continue

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write `results.json`, whose presence says that the run completed: so call this last.

        Raises: ValueError naming every key of schema 1 that is missing; `schema` itself is added here.
        """
        missing = [key for key in RESULTS_KEYS if key not in results]
        missing += [
            f"{key}.{inner}"
            for key, inners in RESULTS_KEYS.items()
            for inner in inners
            if key in results and inner not in results[key]
        ]
        if missing:
            raise ValueError(f"results lack {', '.join(missing)}")
        atomic_write(self.results_path, _json({"schema": RESULTS_SCHEMA, **results}, indent=2) + "\n")

    def write_layers(self, layers: Mapping[str, Mapping[str, Any]]) -> None:
        """Write `layers.json`: by name of every part of the network its bits, why it stays in full precision, and
        its shares.
        """
        atomic_write(self.layers_path, _json(layers, indent=1) + "\n")

    @contextmanager
    def attach_log(self) -> Iterator[None]:
        """Send the logger `quantlab` to stderr, around progress bars, and to `run.log`, while the block runs."""
        handler = _TerminalAndFile(self)
        level, propagate = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate

    def print_table(self, text: str) -> None:
        """Print `text` on stdout, if anyone still reads it, and into `run.log`."""
        try:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
        except (OSError, ValueError):  # closed, full, or a pipe without a reader
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for what is printed after)
        self.append_to_log(text)

    def append_to_log(self, text: str) -> None:
        """Write `text` and an end of line to `run.log` alone, if the disk has room."""
        try:
            with open(self.log_path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError:
            # The line has reached the terminal; a full disk stops the run where it would lose numbers.
            pass


class _TerminalAndFile(logging.Handler):
    """Plain messages, marked from a warning upwards."""

    def __init__(self, run: RunDirectory):
        super().__init__()
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        tqdm.write(text, file=sys.stderr)
        self._run.append_to_log(text)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: scalars of numpy and torch as numbers, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
