"""Results of the authors' released code on seeded inputs, stored in data/*.json, without any of that code.

A file says where its numbers are from (`source`: repository, commit, file, function) and what was run (`how`); `cases`
holds arrays as nested lists. Inputs come from NumPy's legacy generator, whose stream is frozen, so that they are the
same under any version of torch.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal values, float32 of that shape."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def uniform(seed: int, *shape: int) -> Tensor:
    """Uniform values of [0, 1), float32 of that shape."""
    return torch.from_numpy(np.random.RandomState(seed).random_sample(shape).astype(np.float32))


def stored(name: str) -> dict:
    """`cases` of data/NAME.json."""
    content = json.loads((DATA / f"{name}.json").read_text())
    assert content["source"] and content["how"], f"{name}.json does not say where its numbers are from"
    return content["cases"]
