"""Progress bars with a fake clock: output in files and terminals, and the remaining time."""

import io
import sys

import pytest
from tqdm import tqdm

from quantlab.progress import Bar, Steps


class Stream(io.StringIO):
    encoding = "utf-8"

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def stderr(monkeypatch):
    def put(terminal):
        stream = Stream(terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return put


def passing(bar, seconds):
    """The bar with a clock at zero, and its batches, each of which takes `seconds(index)`."""
    clock, inner = [0.0], bar.iterable
    bar._time = lambda: clock[0]
    bar.start_t = bar.last_print_t = 0.0

    def batches():
        for index, batch in enumerate(inner):
            clock[0] += seconds(index)
            yield batch

    bar.iterable = batches()
    return bar


def test_a_file_gets_a_line_a_minute_and_the_end(stderr):
    stream = stderr(terminal=False)
    bar = passing(Steps(range(600), "qat", 0, 600, lambda step: 1.0), lambda index: 0.5)  # five minutes
    for index, _ in enumerate(bar):
        bar.set_postfix_str(f"loss {index}")
        if index == 100:
            tqdm.write("a message", file=stream)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue() and "" not in lines and "\x1b" not in stream.getvalue()
    assert len(lines) == 8 and lines[1] == "a message"
    assert "0/600 [00:00<?, ?step/s]" in lines[0]
    assert " 20%|" in lines[2] and lines[2].endswith("| 120/600 [01:00<04:00, 2.00step/s, loss 119]")
    assert "100%|" in lines[-1] and "600/600 [05:00<00:00, 2.00step/s, loss 599]" in lines[-1]


def test_what_is_done_within_a_minute_writes_nothing_into_a_file(stderr):
    stream = stderr(terminal=False)
    assert list(passing(Bar(range(20), "test accuracy", delay=1, leave=False), lambda index: 2.0)) == list(range(20))
    assert stream.getvalue() == ""
    list(passing(Bar(range(70), "test accuracy", delay=1, leave=False), lambda index: 1.0))
    assert [line.split("|")[-1].split()[0] for line in stream.getvalue().splitlines()] == ["60/70", "70/70"]


def test_a_terminal_is_drawn_over(stderr):
    stream = stderr(terminal=True)
    list(passing(Steps(range(10), "qat", 0, 10, lambda step: 1.0), lambda index: 1.0))
    assert stream.getvalue().count("\r") >= 10 and stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("first", [0, 40])
def test_time_left_goes_by_what_steps_cost(stderr, first):
    stderr(terminal=False)
    # 80 + 200: in steps, 80 % are done when 29 % of the time has gone
    total, costs = 100, lambda step: 1.0 if step < 80 else 10.0
    bar = Steps(range(first, total), "accuquant", first, total, costs)
    bar = passing(bar, lambda index: costs(first + index))
    left = {}
    for _ in bar:
        left[bar.step] = bar.total - bar.n, bar.n / bar.total
        if bar.step == 79:
            facts = bar.format_dict
    assert left[79] == (201.0, 79 / 280) and left[90] == (100.0, 180 / 280)
    shown = bar.format_meter(**facts)
    assert " 28%|" in shown and "79/100 [" in shown and "<03:2" in shown  # by steps: 00:21
    assert bar.step == total and bar.n == bar.total


def test_slow_steps_show_seconds_per_step(stderr):
    stderr(terminal=False)
    bar = passing(Steps(range(10), "slow", 0, 10, lambda step: 5.0), lambda index: 4.0)
    for _ in bar:
        pass
    assert "4.00s/step" in bar.format_meter(**bar.format_dict)
