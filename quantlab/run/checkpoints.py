"""Which checkpoints of a run are kept: the last, the one before it, and the best."""

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantlab.errors import CorruptFileError, RequestError
from quantlab.run import binding
from quantlab.run.atomic_files import remove_leftovers
from quantlab.run.directory import RunDirectory
from quantlab.run.state import load_state, read_facts, save_state

NAME = re.compile(r"step-(\d{8,})")

logger = logging.getLogger("quantlab")


class Checkpoints:
    """The checkpoints of one run, named by step: the last, the one before it, and the best are kept.

    Only one process writes; any number may load.
    """

    def __init__(self, directory: str | Path, run: RunDirectory | None = None):
        self.directory, self.run = Path(directory), run
        self.damaged: list[str] = []  # files that were found so

    @classmethod
    def of(cls, run: RunDirectory) -> "Checkpoints":
        """Those of a run: each carries what binds it to the run, and one that is of another is refused."""
        return cls(run.checkpoints, run)

    def require_own(self) -> None:
        """Raises RequestError where a sound checkpoint is of another run, another config, or another step than its
        name says. Reads no tensors.
        """
        for step in sorted(self.steps()):
            try:
                self._require_own(step, read_facts(self._path(step)))
            except CorruptFileError:
                continue  # the one before it serves

    def _require_own(self, step: int, facts: Mapping[str, Any]) -> None:
        file = self._path(step).with_suffix(".json")
        if facts.get("step", step) != step:
            raise RequestError(
                f"{file} is the checkpoint of step {facts['step']}, not of step {step}: give it and its .safetensors"
                f" file their name back, {self._path(facts['step']).name}, or remove both"
            )
        if self.run is not None:
            self.run.require_own(facts, file)

    def save(
        self, step: int, state: Any, score: Sequence[float] | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Write the checkpoint of `step`, then delete what it makes superfluous, leftovers of a kill included.

        `score`: lower is better, later entries break ties; None, or NaN in it, never is the best. Later steps on disk
        are of a run that went back to an earlier checkpoint, and are superfluous too.
        """
        score = [float(value) for value in score] if score and all(map(math.isfinite, score)) else None
        bound = {} if self.run is None else {binding.KEY: self.run.bound}
        save_state(self._path(step), state, **{**(facts or {}), **bound, "step": step, "score": score})
        self._prune(step)

    def load_latest(self) -> tuple[int, Any, dict[str, Any]] | None:
        """(step, state, facts) of the last sound checkpoint, None when there is none at all; warns of a damaged one.

        `facts` hold `step` and `score` too. Raises: CorruptFileError when there are checkpoints and all are damaged;
        RequestError for one of another step or run.
        """
        return self._load_first_sound(sorted(self.steps(), reverse=True))

    def load_best(self) -> tuple[int, Any, dict[str, Any]] | None:
        """As `load_latest`, from the lowest score upwards; None when no checkpoint has a readable score. Where one is
        damaged, the best may have been another, and `damaged` is not empty.
        """
        lonely = {file.stem for file in self.directory.glob("step-*.safetensors")} - {
            file.stem for file in self.directory.glob("step-*.json")
        }
        self.damaged += [f"{name}.json" for name in sorted(lonely)]
        return self._load_first_sound(self._by_score())

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps at which there is a checkpoint, sound or not, in no order."""
        names = (NAME.fullmatch(file.stem) for file in self.directory.glob("step-*.json"))
        return [int(name[1]) for name in names if name]

    def _by_score(self) -> list[int]:
        scores = {}
        for step in self.steps():
            try:
                scores[step] = read_facts(self._path(step)).get("score")
            except CorruptFileError:
                self.damaged.append(self._path(step).with_suffix(".json").name)
                continue
        # Earlier versions wrote a plain number.
        scores = {
            step: score if isinstance(score, list) else [score] for step, score in scores.items() if score is not None
        }
        return sorted(scores, key=lambda step: (scores[step], step))

    def _load_first_sound(self, steps: Iterable[int]) -> tuple[int, Any, dict[str, Any]] | None:
        damages = []
        for step in steps:
            try:
                state, facts = load_state(self._path(step))
            except CorruptFileError as error:
                logger.warning("%s; trying the checkpoint before it", error)
                damages.append(error)
                self.damaged.append(self._path(step).name)
                continue
            self._require_own(step, facts)
            return step, state, facts
        if damages:
            raise CorruptFileError(f"no sound checkpoint in {self.directory}: {damages[0]}; start the run anew")
        return None

    def _prune(self, newest: int) -> None:
        kept = set(sorted(step for step in self.steps() if step <= newest)[-2:])
        kept.update([step for step in self._by_score() if step <= newest][:1])
        names = {self._path(step).name for step in kept}
        remove_leftovers(self.directory)
        for file in self.directory.glob("step-*"):
            if file.stem not in names:
                file.unlink(missing_ok=True)
