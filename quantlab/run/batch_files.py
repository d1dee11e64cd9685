"""What was measured of images, batch by batch: a file for each batch, so that a run that was killed goes on at the next
one, and memory holds one batch however many there are.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from quantlab.errors import QuantlabError
from quantlab.run.state import load_model, save_model


class BatchFiles:
    """Tensors by name for each of `batches`, slices of rows, in `folder`.

    name: of what was measured; facts: all that shapes the tensors, as plain data. Files of other facts, or damaged,
    count as not there.
    """

    def __init__(self, folder: Path, name: str, facts: Mapping[str, Any], batches: Sequence[slice]):
        self.folder, self.batches = folder, batches
        self.name = re.sub(r"\W+", "-", name)
        self.facts: dict[str, Any] = json.loads(json.dumps({"name": name, **facts}))

    def holds(self, rows: slice) -> bool:
        try:
            return load_model(self._path(rows))[1] == self._facts(rows)
        except QuantlabError:
            return False

    def save(self, rows: slice, tensors: Mapping[str, Tensor]) -> None:
        save_model(self._path(rows), tensors, self._facts(rows))

    def read(self, name: str) -> Iterator[Tensor]:
        """The tensors of that name, in the order of the batches, without those batches that have none."""
        for rows in self.batches:
            with safe_open(self._path(rows).with_suffix(".safetensors"), "pt") as file:
                if name in file.keys():  # noqa: SIM118 -- it is no mapping
                    yield file.get_tensor(name)

    def whole(self, name: str) -> Tensor:
        """The tensors of that name, joined."""
        return torch.cat([*self.read(name)])

    def _path(self, rows: slice) -> Path:
        return self.folder / f"{self.name}-{rows.start:08d}"

    def _facts(self, rows: slice) -> dict[str, Any]:
        return {**self.facts, "rows": [rows.start, rows.stop]}


def batches_of(count: int, size: int) -> list[slice]:
    """`count` rows in batches of `size`, the last one shorter."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]
