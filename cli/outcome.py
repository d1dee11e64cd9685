"""How a run ended, as seen by the shell: the only place where errors become exit codes and messages."""

import errno
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantlab.errors import Interrupted, LoadingError, Pruned, QuantlabError
from quantlab.run.log import unstoppable_stderr
from quantlab.run.signals import as_interrupted

# how Python's loader, torch and numpy say it
NO_MEMORY = re.compile(r"failed to map segment|allocate memory|out of memory|not enough memory|Unable to allocate")


@contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Where the reader of stdout goes away (`quantlab --help | head`), nobody wants the rest: no error."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would be tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(frozen=True)
class Outcome:
    """How the run in `directory` ended. `lines` are for stderr; `interrupted`: by a signal, so nothing may follow."""

    exit_code: int = 0
    lines: tuple[str, ...] = ()
    interrupted: bool = False
    directory: Path | None = None
    trace: str = ""

    def tell(self) -> "Outcome":
        """Say the lines on stderr, with the traceback before them where HYDRA_FULL_ERROR=1 asks for it."""
        with unstoppable_stderr():
            if self.trace and os.environ.get("HYDRA_FULL_ERROR") == "1":
                print(self.trace, file=sys.stderr, end="")
            for line in self.lines:
                print(f"quantlab: {line}", file=sys.stderr)
            sys.stderr.flush()
        return self


def outcome_of(error: BaseException, directory: Path | None = None, resumable: bool = True) -> Outcome:
    """The outcome of a run in `directory` (None: none had begun) that ended by `error`.

    `resumable`: whether a run that was stopped, by a signal or a full disk, is to be gone on with by itself, rather
    than as a part of its sweep.
    """
    error = Interrupted(signal.SIGINT) if isinstance(error, KeyboardInterrupt) else as_interrupted(error)
    trace = "".join(traceback.format_exception(error))
    match error:
        case Interrupted():
            # What else went wrong on the way out: the disk was full when the checkpoint was to be saved.
            lines = [*outcome_of(error.__cause__, directory, resumable).lines] if error.__cause__ is not None else []
            lines.append(str(error))
            if directory is not None and resumable:
                lines.append(f"resume with: quantlab {shlex.quote(f'resume={directory}')}")
            return Outcome(error.exit_code, tuple(lines), interrupted=True, directory=directory, trace=trace)
        case LoadingError() if directory is not None and resumable:
            again = " ".join(filter(None, (shlex.quote(f"resume={directory}"), error.words)))
            return Outcome(1, (f"error: {error}; go on with: quantlab {again}",), directory=directory, trace=trace)
        case Pruned():
            return Outcome(error.exit_code, (str(error),), directory=directory, trace=trace)
        case QuantlabError():
            lines = str(error).splitlines() or [type(error).__name__]
            lines = tuple(f"error: {line}" for line in lines)
            return Outcome(error.exit_code, lines, directory=directory, trace=trace)
        case ImportError() | MemoryError() | RuntimeError() if NO_MEMORY.search(str(error)) or isinstance(
            error, MemoryError
        ):
            said = " ".join(str(error).split())[:160]
            remedy = "close other programs, or type smaller sizes (model.width=, a batch_size=, task.image_size=)"
            return Outcome(1, (f"error: not enough memory ({said}); {remedy}",), directory=directory, trace=trace)
        case OSError() if error.strerror:
            where = f": {error.filename}" if error.filename is not None else ""
            line = f"error: {error.strerror}{where}"
            if directory is not None and resumable and error.errno in (errno.ENOSPC, errno.EDQUOT):
                line += f"; make room, then type quantlab {shlex.quote(f'resume={directory}')}"
            return Outcome(1, (line,), directory=directory, trace=trace)
        case _:
            message = " ".join(str(error).split())
            shown = f"{type(error).__name__}: {message}" if message else type(error).__name__
            line = f"error: {shown} (HYDRA_FULL_ERROR=1 shows the traceback)"
            return Outcome(1, (line,), directory=directory, trace=trace)
