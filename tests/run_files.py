"""The files that a run wrote, and the states in them."""

import json

import numpy as np
import torch

from quantlab.run.checkpoints import Checkpoints
from quantlab.run.directory import RunDirectory

CONFIG = {"seed": 0, "method": {"name": "accuquant", "learning_rate": 1e-5}, "resume": None}  # of no real run


def results(directory):
    return json.loads((directory / "results.json").read_text())


def status(directory):
    return json.loads((directory / "status.json").read_text())


def rows(directory):
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def trained_state(run):
    """The network's state in the last checkpoint of a training: latent weights and quantizers."""
    return Checkpoints(RunDirectory(run).checkpoints).load_latest()[1]["method"]["model"]


def clip_ratios(directory):
    """Those of every layer, for each logged step."""
    return [list(row["layers/gradient_clip_ratio"].values()) for row in rows(directory) if "gradient_clip_ratio" in row]


def assert_same(a, b):
    """Of two states every key, type and bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b) and [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b) and a.dtype == b.dtype
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and (a == b).all()
    else:
        assert a == b or (a != a and b != b)
