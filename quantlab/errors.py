"""The family of errors for users: one line, with what to type instead. And `Interrupted`, for signals.

Any other error is a bug or comes from the system (a full disk); the command reports it in one line too.
"""

import difflib
from collections.abc import Collection, Iterable


class QuantlabError(Exception):
    """Base of the family. `exit_code` is what the shell sees."""

    exit_code = 1


class RequestError(QuantlabError):
    """The request is invalid, which is found before any work. May contain several problems, one line each."""

    exit_code = 2

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class RunError(QuantlabError):
    """The run failed after it had started: a non-finite loss, a damaged file."""


class CorruptFileError(RunError):
    """A file's bytes are not those that were written: truncated, flipped, or in another format."""


class Pruned(QuantlabError):
    """A run that is a trial of a search was not worth its time: it ended where it should."""

    exit_code = 0


class LoadingError(RunError):
    """Data could not be read in the middle of a run, whose last complete step is saved. `words`: further overrides that
    `resume=` needs.
    """

    def __init__(self, message: str, words: str = ""):
        super().__init__(message)
        self.words = words


class Interrupted(BaseException):
    """SIGINT or SIGTERM. `exit_code` is 128 + the signal's number: 130 or 143.

    Not an `Exception`, like KeyboardInterrupt: libraries catch those and turn them into their own errors.
    """

    def __init__(self, signal_number: int):
        super().__init__(f"interrupted by signal {signal_number}")
        self.exit_code = 128 + signal_number


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest of `allowed`, or an empty string if none is near."""
    near = nearest(got, allowed, count=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def nearest(got: str, allowed: Iterable[str], count: int) -> list[str]:
    """Up to `count` of the names `allowed`: those that begin with what was typed, then those that contain it, then
    those spelled similarly.

    Ties go to the shortest. Case, "-" and "_" are ignored: torchvision's `mobilenet_v2` is timm's
    `mobilenetv2_...`.
    """
    got, names, typed = str(got).lower(), {str(name): _plain(name) for name in allowed}, _plain(got)
    if len(typed) < 2:
        return []
    # with a lower cutoff, a list as long as timm's has a match for any word
    like = difflib.get_close_matches(typed, sorted(set(names.values())), n=20, cutoff=0.6 if len(typed) < 5 else 0.7)
    ranks = {}
    for name, plain in names.items():
        if plain.startswith(typed):
            ranks[name] = 0.0
        elif got in name.lower():
            ranks[name] = 1.0
        elif plain in like:
            ranks[name] = 3.0 - difflib.SequenceMatcher(None, plain, typed).ratio()
    return sorted(ranks, key=lambda name: (ranks[name], len(name), name))[:count]


def listed(got: str, allowed: Collection[str], everything: str) -> str:
    """The names `allowed` for an error message: all, or the nearest few if they need more than a line; `everything` is
    the command that lists all.
    """
    names = ", ".join(map(str, allowed))
    if len(names) <= 160:
        return names
    few = nearest(got, allowed, count=4) or [*allowed][:4]
    return f"{', '.join(few)}, ... ({everything} lists all {len(allowed)})"


def nearest_of(got: str, allowed: Collection[str]) -> str:
    """The names `allowed` for an error message: all where they are few, or the nearest five."""
    if len(allowed) <= 8:
        return ", ".join(map(str, allowed))
    few = nearest(got, allowed, count=5)
    few += [name for name in allowed if name not in few][: 5 - len(few)]
    return f"{', '.join(map(str, few))}, ... ({len(allowed)} in all)"


def _plain(name: object) -> str:
    return str(name).lower().replace("-", "").replace("_", "")
