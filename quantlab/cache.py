"""Tensors that runs share: full-precision weights, trajectories. Keyed by the hash of everything that shapes them."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from quantlab.checkpoint import load_model, save_model
from quantlab.errors import CorruptFileError

logger = logging.getLogger("quantlab")


class Cache:
    """A directory with one folder per kind of thing, and one folder per thing, named by the hash of its facts."""

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser()

    def folder(self, kind: str, facts: dict[str, Any]) -> Path:
        """Where the thing described by `facts` (plain data) lies; its last part is the first 16 digits of their sha256."""
        canonical = json.dumps(facts, sort_keys=True, default=str)
        return self.root / kind / hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @contextmanager
    def lock(self, kind: str, facts: dict[str, Any]) -> Iterator[None]:
        """Held while a thing is being made, so that two runs that start together make it once. Its holder may take it again."""
        folder = self.folder(kind, facts)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", is_singleton=True):
            for leftover in folder.glob(".*.tmp"):      # of a process that was killed: no other writes here now
                leftover.unlink(missing_ok=True)
            yield

    def load(self, kind: str, facts: dict[str, Any]) -> dict[str, Tensor] | None:
        """The tensors, or None if they were never made. Damaged ones are named, removed, and count as never made."""
        path = self.folder(kind, facts) / "tensors"
        if not path.with_name("tensors.json").exists():
            return None
        try:
            return load_model(path)[0]
        except CorruptFileError as error:
            logger.warning("%s; it will be made again", error)
            shutil.rmtree(path.parent, ignore_errors=True)
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
