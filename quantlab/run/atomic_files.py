"""Files and directories that are there whole or not at all, whenever a process is killed and whoever else writes."""

import contextlib
import hashlib
import itertools
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Replace the file at `path` by `data` (text as UTF-8): after a crash it holds the old bytes or the new, whole.

    Raises: OSError naming `path` (a full disk, no permission); what was there is then untouched, and nothing is left
    beside it.
    """
    with _written_beside(Path(path), data) as temporary:
        os.replace(temporary, path)


def create_whole(path: str | Path, data: bytes | str) -> None:
    """As `atomic_write`, for a file that must be new: of any number of processes that try, one succeeds.

    Raises: FileExistsError when something is at `path`, which stays as it is; OSError as `atomic_write`.
    """
    with _written_beside(Path(path), data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: new for sure, but a crash in the next moment tears it
            with open(path, "xb") as file:
                file.write(temporary.read_bytes())


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """As `atomic_write`, for a file that the block writes at the path it is given, which takes its place at the end."""
    with _beside(path) as temporary:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextmanager
def _written_beside(path: Path, data: bytes | str) -> Iterator[Path]:
    """A temporary file beside `path` that holds `data`, on the disk for sure; removed at the end."""
    with _beside(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The path of a temporary file beside `path`, removed at the end. An OSError on the way names `path`."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # write() and fsync() know no name
        raise
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill in the middle of `atomic_write` left in `folder` or below. Only for whoever alone writes
    there.
    """
    for leftover in _leftovers(folder):
        leftover.unlink(missing_ok=True)


def remove_old_leftovers(folder: Path, age: float = 60.0) -> None:
    """As `remove_leftovers`, where another may be writing too: only what nobody has written to for `age` seconds."""
    for leftover in _leftovers(folder):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > age:
                leftover.unlink()


def _leftovers(folder: Path) -> Iterator[Path]:
    for pattern in (".*.tmp", ".tmp??????"):  # ours, and those of safetensors
        yield from folder.rglob(pattern)


def claim_directory(path: Path) -> Path:
    """Make a new directory at `path`, or where that is taken at `path`-2, -3, ...: never the same one for two callers.

    Raises: OSError when it cannot be made.
    """
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            continue
    raise AssertionError("unreachable")
