"""What a campaign is: a module here that `campaigns.yaml` names, with a function

    trial(seed: int, folder: Path, shared: Path) -> str

which tries one thing, chosen by the seed, in the empty `folder`, and returns in a few words how it ended ("refused",
"same bits"): the report counts these. It raises (AssertionError, as a rule) where quantlab did wrong; the seed makes
the same trial again. `shared` is a folder of all trials of all campaigns, for a cache and for runs to compare with;
trials run at the same time, each in a process of its own or after others in one.
"""

import signal
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import yaml

CONFIG = yaml.safe_load((Path(__file__).parent / "campaigns.yaml").read_text()) or {}


@dataclass(frozen=True)
class Trial:
    """How the trial of one seed ended; `fault`: one line, or nothing."""

    seed: int
    outcome: str
    fault: str
    seconds: float


class Overrun(BaseException):
    """A trial took longer than its campaign allows. No `Exception`: nothing that is tried may catch it."""


def seeds(name: str, size: str) -> range:
    """Of a campaign, `size` "small" or "full"."""
    own = CONFIG[name]
    return range(own["first"], own["first"] + own[size])


def about(name: str) -> str:
    """The first paragraph of a campaign's docstring, on one line."""
    return " ".join((import_module(name).__doc__ or "").split("\n\n")[0].split())


def try_one(name: str, seed: int, shared: Path) -> Trial:
    """The trial of one seed, in a folder of its own that goes afterwards."""
    trial, limit, start = import_module(name).trial, CONFIG[name]["limit"], time.monotonic()
    outcome = fault = ""
    before = signal.signal(signal.SIGALRM, _overrun)
    signal.alarm(limit)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{name}-{seed}-", ignore_cleanup_errors=True) as folder:
            outcome = trial(seed, Path(folder), shared)
    except Overrun:
        fault = f"not over after {limit} s"
    except (Exception, SystemExit) as error:
        fault = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Trial(seed, outcome, fault, round(time.monotonic() - start, 2))


def _overrun(number: int, frame: object) -> None:
    raise Overrun
