"""A run's directory: config, state, metrics, results and log. All that is read from it or written to it goes through
here; pictures are drawn to the paths that are named here. Nothing here needs torch.

Every file but the two that grow (`metrics.jsonl`, `run.log`) is replaced as a whole, so that a reader never meets half
a file, whenever the run was killed. Longer than other files, so that the layout of a run stands in one place.
"""

import functools
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf

from quantlab.errors import CorruptFileError, RequestError
from quantlab.run import binding, formats
from quantlab.run.atomic_files import atomic_write, create_whole, remove_leftovers, remove_old_leftovers, replaced_whole
from quantlab.run.lock import RunLock
from quantlab.run.log import RunLog
from quantlab.run.metrics_file import MetricsFile, lines
from quantlab.run.parsing import ParseError, read_json, read_yaml
from quantlab.run.plain_json import not_finite, to_json

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("quantlab")

METRICS = "metrics.jsonl"
STATES = ("running", "completed", "failed", "interrupted", "pruned")

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
# what a reader of results.json cannot do without
NEEDED = {"method": str, "task": str, "model": str, "bits": dict, "metrics": dict}
CURVES = ("step_error", "accumulated_error")  # of each entry of figures/denoising.json, one value per denoising step


class RunDirectory:
    """The directory of one run. Made by `create` for a new run, by `open` to go on with one, which no other process can
    until `close`; to read it needs none of them.

    The paths that it names need not exist.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.copy_path = self.path / ".hydra" / "config.yaml"
        self.typed_path = self.path / ".hydra" / "overrides.yaml"
        self.status_path = self.path / "status.json"
        self.results_path = self.path / "results.json"
        self.layers_path = self.path / "layers.json"
        self.report_path = self.path / "report.md"
        self.ranking_path = self.path / "ranking.csv"  # of a supernet: every ranked subnet
        self.checkpoints = self.path / "checkpoints"
        self.model_path = self.checkpoints / "model.safetensors"  # what the run made, ready to be used
        self.best_model_path = self.checkpoints / "best.safetensors"  # the best validated state, where that is another
        self.figures = self.path / "figures"
        self.denoising_path = self.figures / "denoising.json"
        self.samples = self.path / "samples"
        self.evaluation = self.path / "evaluation"  # what is measured, batch by batch, until the run has completed
        self.lock = RunLock(self.path)
        self.metrics = MetricsFile(self.path / METRICS)
        self.log = RunLog(self.path / "run.log")

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    # a run begins, or goes on ---------------------------------------------------------------------------------------
    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], typed: Sequence[str]) -> "RunDirectory":
        """Start a run at `path`, in state `running`: `config` is the resolved config, `typed` the user's overrides.

        Raises: RequestError when `path` already holds a run or cannot be written to.
        """
        run = cls(path)
        if run.holds_a_run():
            raise run._taken()
        if run.checkpoints.is_dir() and any(run.checkpoints.glob("step-*.json")):
            raise RequestError(
                f"{run.path} holds checkpoints of a run whose config.yaml is gone; put it back (.hydra/config.yaml is a"
                " copy), or choose another output_dir"
            )
        run._refuse_links()
        own = {formats.KEY: formats.FORMAT, binding.IDENTITY: uuid.uuid4().hex}
        resolved = OmegaConf.to_yaml(OmegaConf.create(own | dict(config)))
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            remove_old_leftovers(run.path)
            # First, and at one stroke: this file makes the directory a run, and this process the one whose run it is. A
            # run that is killed before it can simply be started again, and one killed after it gone on with.
            create_whole(run.config_path, resolved)
            run.lock.acquire()
            run.write_status("running")
            run._write(run.copy_path, resolved)
            run._write(run.typed_path, yaml.safe_dump(list(typed), allow_unicode=True))
        except OSError as error:
            run.close()
            if isinstance(error, FileExistsError) and run.holds_a_run():
                raise run._taken() from None
            raise RequestError(
                f"cannot write to {run.path} ({error.strerror}); choose another place with output_dir=..."
            ) from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """Reopen the run at `path`: files torn by a kill are repaired or removed; the state stays as it is.

        Raises: RequestError when no run is there, a process is working on it, or it cannot be written to.
        """
        run = cls(path)
        if not run.holds_a_run():
            raise RequestError(
                f"{run.path} holds no run to go on with ({run.config_path.name} is missing);"
                " resume= takes the directory of an earlier run, such as outputs/DATE/TIME"
            )
        run._refuse_links()
        try:
            run.lock.acquire()
            remove_leftovers(run.path)
            if rotten := run.metrics.mend():
                logger.warning("%s: %s taken out, into %s.damaged", run.metrics.path, lines(rotten), METRICS)
        except OSError as error:
            run.close()
            raise RequestError(f"cannot write to {run.path} ({error.strerror}), which resume= must") from error
        return run

    def close(self) -> None:
        """The end of what `create` or `open` began: from now on another process may go on with the run."""
        self.lock.release()

    def holds_a_run(self) -> bool:
        return self.config_path.is_file()

    def is_ours(self) -> bool:
        """Whether this is a run's directory, and not one in which another tool left a config.yaml."""
        return self.holds_a_run() and self.status_path.is_file()

    def _refuse_links(self) -> None:
        """Raises RequestError where something that a run writes is a link: whoever handed the directory over would
        choose what is overwritten.
        """
        folders = (self.checkpoints, self.figures, self.samples, self.evaluation, self.typed_path.parent)
        own = {value for value in vars(self).values() if isinstance(value, Path)} - {self.path}
        own |= {self.metrics.path, self.log.path, *folders}
        own |= {file for folder in folders if folder.is_dir() and not folder.is_symlink() for file in folder.iterdir()}
        if links := sorted(file for file in own if file.is_symlink()):
            raise RequestError(
                f"{links[0]} is a link to {os.readlink(links[0])}, and a run writes only into its own directory; put"
                " what it names in its place, or remove it"
            )

    def _taken(self) -> RequestError:
        return RequestError(
            f"{self.path} already holds a run; go on with it by resume={self.path}, or choose another output_dir"
        )

    # reading --------------------------------------------------------------------------------------------------------
    def read_config(self) -> dict[str, Any]:
        """The resolved config, as this version has it, whichever made the run (`formats`).

        Raises: CorruptFileError when `config.yaml` is no mapping in YAML; RequestError for a format of another version.
        """
        return formats.migrated_config(self._written_config(), str(self.path), self._made_by())

    def _written_config(self) -> dict[str, Any]:
        try:
            config, reason = read_yaml(self.config_path), "it holds no mapping"
        except ParseError as error:
            config, reason = None, str(error)
        if not isinstance(config, dict):
            raise CorruptFileError(f"{self.config_path} is damaged ({reason}); .hydra/config.yaml beside it is a copy")
        return config

    @functools.cached_property
    def bound(self) -> dict[str, Any]:
        """What the files of this run carry (`binding`), as config.yaml says when it is first asked. Raises:
        CorruptFileError, FileNotFoundError.
        """
        return binding.binding_of(self._written_config())

    def require_own(self, facts: Mapping[str, Any], file: Path) -> None:
        """Raises RequestError unless `file`, a saved state with these facts, is of this run and of its config."""
        copy = {} if facts.get(binding.KEY) == self.bound else _read_or_none(self.copy_path)
        differs = binding.changes(copy, self._written_config()) if isinstance(copy, dict) and copy else ""
        binding.require_bound(facts, self.bound, file, differs)

    def _made_by(self) -> str:
        """`quantlab 0.1.0 (commit ...)`, or nothing where the run has no results that say it."""
        facts = _mapping(_mapping(_read_json(self.results_path)).get("provenance"))
        if "quantlab" not in facts:
            return ""
        return f"quantlab {facts['quantlab']}" + (f" (commit {facts['commit']})" if facts.get("commit") else "")

    def read_typed(self) -> list[str]:
        """The overrides that the user typed; [] where a kill or an accident left none: they only describe the run."""
        typed = _read_or_none(self.typed_path)
        return [str(word) for word in typed] if isinstance(typed, list) else []

    def read_status(self) -> dict[str, Any]:
        """`state`, `error`, `exit_code`, as last written; {} where the file is missing or torn."""
        return _mapping(_read_json(self.status_path))

    def state(self) -> str | None:
        """The `state` of status.json; None where the file is missing or torn."""
        return self.read_status().get("state")

    def is_completed(self) -> bool:
        """Whether the run has ended well and its results are there: what a sweep skips, and `resume=` refuses."""
        try:
            return self.state() == "completed" and self.read_results() is not None
        except CorruptFileError:
            return False

    def read_results(self) -> dict[str, Any] | None:
        """results.json; None for a run that has not completed. Raises: CorruptFileError when it is no results file."""
        if not self.results_path.is_file():
            return None
        results = _mapping(_read_json(self.results_path))
        for key, kind in NEEDED.items():
            if not isinstance(results.get(key), kind):
                raise CorruptFileError(f"{self.results_path} is damaged (no {key})")
        return results

    def read_layers(self) -> dict[str, dict[str, Any]] | None:
        """layers.json; None where the run quantized nothing, or nothing can be read."""
        layers = _read_json(self.layers_path)
        sound = isinstance(layers, dict) and all(isinstance(facts, dict) for facts in layers.values())
        return layers if sound else None

    def read_denoising(self) -> dict[str, Any] | None:
        """figures/denoising.json (the errors along denoising), or None where the run left none.

        Raises: CorruptFileError when it cannot be read, or its curves are not one value per denoising step.
        """
        path = self.denoising_path
        if not path.is_file():
            return None
        try:
            series = read_json(path)
            steps = len(series["timesteps"])
            lengths = {len(curve[key]) for curve in series["curves"].values() for key in CURVES}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(f"{path} is damaged ({type(error).__name__}: {error})") from error
        if not lengths <= {steps}:
            raise CorruptFileError(
                f"{path} is damaged (curves of {sorted(lengths)} values for {steps} denoising steps)"
            )
        return series

    def pictures(self) -> list[Path]:
        """The PNG files of `figures` and `samples`."""
        return [file for folder in (self.figures, self.samples) for file in sorted(folder.glob("*.png"))]

    # writing --------------------------------------------------------------------------------------------------------
    def write_status(self, state: str, error: str | None = None, exit_code: int | None = None) -> None:
        """Write `status.json`; `state` is one of `STATES`, and `error` is put on one line."""
        if state not in STATES:
            raise ValueError(f"state is {state!r}, but must be one of {', '.join(STATES)}")
        error = " ".join(error.split()) if error else None
        self._write(self.status_path, to_json({"state": state, "error": error, "exit_code": exit_code}, indent=2))

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write `results.json`, whose presence says that the run completed: so call this last.

        Raises: ValueError naming every key of schema 1 that is missing, or the metrics that are not finite; `schema`
        itself is added here.
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
        if bad := not_finite(results["metrics"]):
            raise ValueError(f"metrics of a completed run are finite, but {', '.join(bad)} is not")
        remove_leftovers(self.path)  # of a kill before there was a run to go on with
        self._write(self.results_path, to_json({"schema": RESULTS_SCHEMA, **results}, indent=2) + "\n")

    def write_layers(self, layers: Mapping[str, Mapping[str, Any]]) -> None:
        """Write `layers.json`: by name of every part of the network its bits, why it stays in full precision, and
        its shares.
        """
        self._write(self.layers_path, to_json(layers, indent=1) + "\n")

    def write_report(self, text: str) -> None:
        self._write(self.report_path, text)

    def write_denoising(self, series: Mapping[str, Any]) -> None:
        """Write figures/denoising.json, as `read_denoising` gives it."""
        self._write(self.denoising_path, json.dumps(series, indent=1))

    def write_samples(self, pixels: "Iterable[np.ndarray]", count: int) -> Path:
        """Write samples/samples.npy, uint8 [count, H, W, C], part by part; returns its path."""
        import numpy as np

        path = self.samples / "samples.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_whole(path) as temporary, open(temporary, "wb") as file:
            for number, part in enumerate(pixels):
                if number == 0:
                    facts = {"descr": "|u1", "fortran_order": False, "shape": (count, *part.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, facts)
                file.write(np.ascontiguousarray(part))
        return path

    def drop_evaluation(self) -> None:
        """Remove what only a run that goes on needs."""
        shutil.rmtree(self.evaluation, ignore_errors=True)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, text)


def _read_json(path: Path) -> Any:
    """What the file holds, or None: what only describes a run must not hide the run's numbers when it is damaged."""
    try:
        return read_json(path)
    except (OSError, ParseError):
        return None


def _read_or_none(path: Path) -> Any:
    try:
        return read_yaml(path)
    except (OSError, ParseError):
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
