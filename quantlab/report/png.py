"""Pictures as files that are there whole or not at all."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from quantlab.run.atomic_files import atomic_write


def write_png(path: Path, save: Callable[[BinaryIO], object]) -> Path:
    """Write what `save` writes into the file it is given. Raises: OSError naming `path` (a full disk)."""
    drawn = io.BytesIO()
    save(drawn)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, drawn.getvalue())
    return Path(path)
