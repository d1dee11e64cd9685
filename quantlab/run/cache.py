"""Tensors that runs share: full-precision weights, trajectories. Keyed by the hash of everything that shapes them."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from quantlab.errors import CorruptFileError
from quantlab.run.atomic_files import file_digest, remove_leftovers
from quantlab.run.processes import ALONE, Processes
from quantlab.run.state import load_model, load_state, save_model, save_state

logger = logging.getLogger("quantlab")


class Cache:
    """A directory with one folder per kind of thing, and one folder per thing, named by the hash of its facts."""

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser()

    def folder(self, kind: str, facts: dict[str, Any]) -> Path:
        """Where the thing described by `facts` (plain data) lies; its last part is the first 16 digits of their
        sha256.
        """
        return self.root / kind / hashlib.sha256(_canonical(facts).encode()).hexdigest()[:16]

    @contextmanager
    def lock(self, kind: str, facts: dict[str, Any]) -> Iterator[None]:
        """Held while a thing is being made, so that two runs that start together make it once. Its holder may take
        it again.
        """
        folder = self.folder(kind, facts)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", is_singleton=True):
            remove_leftovers(folder)  # of a process that was killed: no other writes here now
            yield

    def load(self, kind: str, facts: dict[str, Any]) -> dict[str, Tensor] | None:
        """The tensors, or None if they were never made. Those that are damaged, or of other facts, as where a file was
        put in the place of another, are named, removed, and count as never made.
        """
        path = self.folder(kind, facts) / "tensors"
        if not path.with_name("tensors.json").exists():
            return None
        try:
            tensors, found = load_model(path)
            _require_same(found, facts, path)
            return tensors
        except CorruptFileError as error:
            logger.warning("%s; it will be made again", error)
            shutil.rmtree(path.parent, ignore_errors=True)
            return None

    def fetch_files(
        self, kind: str, facts: dict[str, Any], make: Callable[[Path], None], processes: Processes = ALONE
    ) -> Path:
        """A folder of files, which `make` writes into it if need be: for what is too large to hold. A damaged one
        is made again; what a killed `make` left is there for the next one to go on with. All `processes` of a run ask
        together, and make it together.
        """
        folder = self.folder(kind, facts) / "files"
        if processes.of_first(lambda: self._problem(folder, facts)) is None:
            return folder
        with self.lock(kind, facts) if processes.is_first else nullcontext():
            problem = processes.of_first(lambda: self._problem(folder, facts))
            if problem is None:
                return folder
            if processes.is_first:
                if problem:
                    logger.warning("%s; it will be made again", problem)
                    folder.with_name("digests.json").unlink()
                    shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True, exist_ok=True)
            processes.wait()
            make(folder)
            processes.wait()
            if processes.is_first:
                save_state(
                    folder.with_name("digests"),
                    {path.name: file_digest(path) for path in sorted(folder.iterdir())},
                    **facts,
                )
            processes.wait()
        return folder

    def _problem(self, folder: Path, facts: dict[str, Any]) -> str | None:
        """What is wrong with the files, "" where they were not all made yet, None where they are sound."""
        if not folder.with_name("digests.json").exists():
            return ""
        try:
            digests, found = load_state(folder.with_name("digests"))
            _require_same(found, facts, folder)
            for name, digest in digests.items():
                if not (folder / name).is_file() or file_digest(folder / name) != digest:
                    raise CorruptFileError(f"{folder / name} is damaged or missing")
        except CorruptFileError as error:
            return str(error)
        return None

    def save(self, kind: str, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        with self.lock(kind, facts):
            save_model(self.folder(kind, facts) / "tensors", tensors, facts)

    def fetch(self, kind: str, facts: dict[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors, made now if need be."""
        found = self.load(kind, facts)
        if found is not None:
            return found
        with self.lock(kind, facts):
            found = self.load(kind, facts)
            if found is None:
                found = make()
                self.save(kind, facts, found)
        return found


def _canonical(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, default=str)


def _require_same(found: dict[str, Any], facts: dict[str, Any], path: Path) -> None:
    if found != json.loads(_canonical(facts)):  # tuples and keys as JSON has them
        raise CorruptFileError(f"{path} holds something else than its place says")
