"""metrics.jsonl: a line per step, whole after any kill."""

import json
import logging
import math

import numpy as np
import pytest

from quantlab.run.directory import RunDirectory


def metrics_lines(run):
    return [json.loads(line) for line in run.metrics.path.read_text().splitlines()]


def test_metrics_are_one_line_per_step_with_step_first(run):
    run.metrics.append(10, {"loss": 0.1, "accuracy": np.float64(2.5), "scale": math.nan, "bound": -math.inf})
    run.metrics.append(20, {"loss": 1 / 3})
    assert (
        run.metrics.path.read_text()
        == '{"step": 10, "loss": 0.1, "accuracy": 2.5, "scale": "NaN", "bound": "-Infinity"}\n'
        '{"step": 20, "loss": 0.3333333333333333}\n'
    )


def test_resume_cuts_the_torn_line_and_repeats_no_step(run):
    run.metrics.append(10, {"loss": 0.5})
    run.metrics.append(20, {"loss": 0.25})
    with open(run.metrics.path, "a") as file:
        file.write('{"step": 30, "lo')

    resumed = RunDirectory.open(run.path)
    assert [line["step"] for line in metrics_lines(resumed)] == [10, 20]
    for step, loss in [(20, 0.25), (30, 0.125)]:
        resumed.metrics.append(step, {"loss": loss})
    resumed.metrics.append(30, {"fid": 4.0})
    assert metrics_lines(resumed) == [
        {"step": 10, "loss": 0.5},
        {"step": 20, "loss": 0.25},
        {"step": 30, "loss": 0.125},
        {"step": 30, "fid": 4.0},
    ]


ROTTEN = (b'{"step": 20, "loss"\xff 0.25}', b'{"step": 20, "lo', b"[20]", b'{"step": "x"}', b"")


@pytest.mark.parametrize("rotten", ROTTEN)
def test_a_rotten_line_is_taken_out_and_kept_aside(rotten, run, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("quantlab"), "propagate", True)
    run.metrics.append(10, {"loss": 0.5})
    run.metrics.append(30, {"loss": 0.125})
    first, last = run.metrics.path.read_bytes().splitlines()
    run.metrics.path.write_bytes(b"\n".join([first, rotten, last, b""]))

    resumed = RunDirectory.open(run.path)
    assert "metrics.jsonl: line 2 taken out" in caplog.text
    resumed.metrics.append(20, {"loss": 0.25})  # made again
    assert [row["step"] for row in resumed.metrics.read()] == [10, 20, 30]
    assert (run.path / "metrics.jsonl.damaged").read_bytes() == rotten + b"\n"


@pytest.mark.parametrize("kept", range(0, 30, 3))
def test_metrics_survive_a_kill_at_any_byte(run, kept):
    run.metrics.append(10, {"loss": 0.5})
    run.metrics.append(20, {"loss": 0.25})
    whole = run.metrics.path.read_bytes()
    run.metrics.path.write_bytes(whole[:-kept] if kept else whole)

    resumed = RunDirectory.open(run.path)
    resumed.metrics.append(10, {"loss": 0.5})
    resumed.metrics.append(20, {"loss": 0.25})
    assert resumed.metrics.path.read_bytes() == whole
