"""The files that a run wrote."""

import json

from quantlab.run.checkpoints import Checkpoints
from quantlab.run.directory import RunDirectory


def results(directory):
    return json.loads((directory / "results.json").read_text())


def rows(directory):
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def trained_state(run):
    """The network's state in the last checkpoint of a training: latent weights and quantizers."""
    return Checkpoints(RunDirectory(run).checkpoints).load_latest()[1]["method"]["model"]
