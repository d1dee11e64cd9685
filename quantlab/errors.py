"""The one family of errors that a person is meant to read: one line, and what to type instead. And `Interrupted`, a signal.

Everything else that escapes is a bug or the system's (a full disk), and the command says so in one line too.
"""

import difflib
from collections.abc import Iterable


class QuantlabError(Exception):
    """Base of the family. `exit_code` is what the shell sees."""

    exit_code = 1


class RequestError(QuantlabError):
    """The request is wrong: found before any work. May carry several problems, each one line."""

    exit_code = 2

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class RunError(QuantlabError):
    """The run failed after it had started: a non-finite loss, a file that turned out to be damaged."""


class CorruptFileError(RunError):
    """A file's bytes are not what was written: truncated, flipped, or of another format."""


class LoadingError(RunError):
    """Data could not be read in the middle of a run, whose last whole step is saved. `words`: what `resume=` needs beside it."""

    def __init__(self, message: str, words: str = ""):
        super().__init__(message)
        self.words = words


class Interrupted(BaseException):
    """SIGINT or SIGTERM. `exit_code` is 128 + the signal's number: 130 or 143.

    Not an `Exception`, as KeyboardInterrupt is none: libraries catch those, and make errors of their own of them.
    """

    def __init__(self, signal_number: int):
        super().__init__(f"interrupted by signal {signal_number}")
        self.exit_code = 128 + signal_number


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest of `allowed`, or an empty string when nothing is near."""
    near = difflib.get_close_matches(str(got), [str(name) for name in allowed], n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
