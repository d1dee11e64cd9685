"""The one kind of progress bar: on a terminal tqdm's; into a file or a pipe a line at its start, a line a minute,
and its end.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

from quantlab.run.signals import check

LINE_EVERY = 60.0  # seconds


class Stopwatch:
    """Wall time of a run over its sittings, in seconds. `earlier`: of those up to the checkpoint that this one goes on
    from. Of a sitting that was killed, what came after its last checkpoint is not known.
    """

    def __init__(self) -> None:
        self.started, self.earlier = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.started


class Bar(tqdm):
    """tqdm over `batches`; with `delay`, for short work: silent unless it takes that many seconds, and on a
    terminal gone at its end.
    """

    def __init__(self, batches: Iterable, what: str, unit: str = "batch", **options: Any):
        stream = sys.stderr
        self.in_lines = not stream.isatty()
        if self.in_lines:
            options |= {"file": _Lines(stream), "mininterval": LINE_EVERY, "miniters": 1, "position": 0, "leave": True}
        super().__init__(batches, desc=what, unit=unit, dynamic_ncols=not self.in_lines, **options)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        super().set_postfix_str(s, refresh and not self.in_lines)

    def redraw(self) -> None:
        """With the time that has passed since; into a file nothing, a line a minute being enough."""
        if not self.in_lines:
            self.refresh()


def interruptible_bar(batches: Iterable, what: str, shown: bool = True) -> Iterator:
    """`batches` with a bar on stderr, shown only once they have taken a second."""
    for batch in Bar(batches, what, delay=1, leave=False, disable=not shown):
        check()  # a signal that a library caught ends the run here
        yield batch


class Steps(Bar):
    """A bar over the batches of the steps `first` to `total`, of which some cost more than others: share and time left
    go by cost.

    cost: what a step costs, in any unit; the steps before `first` were made earlier.
    """

    FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {step}/{steps} [{elapsed}<{remaining}, {speed}{postfix}]"

    def __init__(
        self, batches: Iterable, what: str, first: int, total: int, cost: Callable[[int], float], **options: Any
    ):
        self.step, self.steps, self.cost = first, total, cost
        before, after = sum(map(cost, range(first))), sum(map(cost, range(first, total)))
        super().__init__(
            batches, what, unit="step", initial=before, total=before + after, bar_format=self.FORMAT, **options
        )

    def __iter__(self) -> Iterator:
        try:
            for batch in self.iterable:
                yield batch
                spent, self.step = self.cost(self.step), self.step + 1
                self.update(spent)
        finally:
            self.close()

    @property
    def format_dict(self) -> dict[str, Any]:
        facts = super().format_dict
        # of costs
        rate = facts["rate"] or (facts["n"] - facts["initial"]) / facts["elapsed"] if facts["elapsed"] else None
        now = self.cost(min(self.step, self.steps - 1)) if self.steps else 0.0
        speed = rate / now if rate and now else None
        shown = "?step/s" if speed is None else f"{speed:.2f}step/s" if speed >= 1 else f"{1 / speed:.2f}s/step"
        return facts | {"step": self.step, "steps": self.steps, "speed": shown}


class _Lines:
    """A stream that gets whole lines in place of a bar that is drawn over and over."""

    def __init__(self, stream: TextIO):
        self.stream, self.encoding = stream, getattr(stream, "encoding", None)

    def write(self, text: str) -> None:
        text = text.strip()
        if text:
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()
