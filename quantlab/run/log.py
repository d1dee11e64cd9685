"""run.log: a run's printed output, which also goes to stderr and stdout around progress bars."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

logger = logging.getLogger("quantlab")


def print_if_read(text: str) -> None:
    """`text` on stdout, unless that is closed, full, or a pipe without a reader: what was done is done all the same."""
    if sys.stdout is None:
        return
    try:
        _write(text, sys.stdout)
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for what is printed after)


def say(text: str) -> None:
    """`text` on stderr, above a progress bar that may be there."""
    _write(text, sys.stderr)


def _write(text: str, stream: TextIO) -> None:
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(text, file=stream)
    else:  # there is no bar
        stream.write(text + "\n")


@contextmanager
def unstoppable_stderr() -> Iterator[None]:
    """Within the block what is said on stderr is lost where that is closed, full, or a pipe without a reader, but stops
    nothing.
    """
    before = sys.stderr
    sys.stderr = before if isinstance(before, _Unstoppable) else _Unstoppable(before)
    try:
        yield
    finally:
        sys.stderr = before


class _Unstoppable:
    """A text stream that loses what its stream does not take."""

    def __init__(self, stream: TextIO | None):
        self._stream: TextIO | None = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()


class RunLog(logging.Handler):
    """Plain messages, marked from a warning upwards, on stderr and in the file at `path`."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While the block runs, the logger `quantlab` speaks here and nowhere else."""
        level, propagate = logger.level, logger.propagate
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)
            logger.propagate = propagate

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        say(text)
        self.append(text)

    def print(self, text: str) -> None:
        """`text` on stdout, if anyone still reads it, and in the file."""
        print_if_read(text)
        self.append(text)

    def append(self, text: str) -> None:
        """Write `text` and an end of line to the file alone, if the disk has room."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError:
            # The line has reached the terminal; a full disk stops the run where it would lose numbers.
            pass
