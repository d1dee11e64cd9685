"""Accuracies of subnets trained alone: a table of a whole benchmark or of a trained sample.

The file is an .npz: every float array is an accuracy in percent, by name (`cifar10_test`), whose entry n belongs to
subnet n; an integer array whose name ends in `_indices` is a named list of subnets (`kendall_indices`). With an
integer array `indices` the table covers a sample: entry i belongs to subnet indices[i].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quantlab.errors import RequestError, did_you_mean
from quantlab.search.spaces import SearchSpace

SUBSET = "_indices"


def table_file(path: str | Path, key: str) -> Path:
    """The file of a table. Raises RequestError, under the name `key`, if it does not exist."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise RequestError(f"{key}: no such file: {file}; scripts/convert_nats_bench.py makes NAS-Bench-201's")
    return file


@dataclass(frozen=True)
class TruthTable:
    """indices: int64 `[n]`, the subnets in the table; accuracies: float64 `[n]` in percent, by name; subsets:
    int64, by name.
    """

    indices: np.ndarray
    accuracies: Mapping[str, np.ndarray]
    subsets: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace, key: str = "method.truth") -> "TruthTable":
        """Read an .npz. Raises RequestError, under the name `key`, for a file that is no .npz, or not a table of
        `space`.
        """
        file = table_file(path, key)
        content: dict[str, np.ndarray] = {}
        try:
            with np.load(file, allow_pickle=False) as arrays:
                for name in arrays.files:
                    content[name] = arrays[name]
        except Exception as error:  # numpy and zipfile raise almost anything on damaged bytes
            read = f", after {', '.join(content)}" if content else ""
            raise RequestError(f"{key}: {file} is not a sound .npz file of plain arrays ({error}{read})") from None
        accuracies = {name: values.astype(np.float64) for name, values in content.items() if values.dtype.kind == "f"}
        subsets = {
            name: values.astype(np.int64)
            for name, values in content.items()
            if values.dtype.kind in "iu" and (name == "indices" or name.endswith(SUBSET))
        }
        if not accuracies:
            raise RequestError(
                f"{key}: {file} holds no accuracies ({', '.join(content)}), allowed: float arrays, one entry per subnet"
            )
        for name, numbers in subsets.items():
            sound = numbers.ndim == 1 and len(numbers) and numbers.min() >= 0 and numbers.max() < space.size
            if not sound or len(set(numbers)) < len(numbers):
                raise RequestError(
                    f"{key}: {name} of {file} is no list of different subnets, allowed: numbers from 0 to"
                    f" {space.size - 1}"
                )
        sample = subsets.pop("indices", None)
        expected = space.size if sample is None else len(sample)
        for name, values in accuracies.items():
            if values.shape != (expected,):
                got, of = " x ".join(map(str, values.shape)), space.name if sample is None else "its indices"
                raise RequestError(
                    f"{key}: {name} of {file} has {got} entries, allowed: {expected}, one per subnet of {of}; give a"
                    f" table of {space.name}"
                )
            if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 100):
                raise RequestError(
                    f"{key}: {name} of {file} holds values that are no accuracies, allowed: 0 to 100 percent"
                )
        return cls(np.arange(expected) if sample is None else sample, accuracies, subsets)

    def save(self, path: str | Path) -> None:
        """Write a file that `load` reads. A table of the first n subnets is written like that of a whole space."""
        whole = np.array_equal(self.indices, np.arange(len(self.indices)))
        np.savez_compressed(path, **({} if whole else {"indices": self.indices}), **self.accuracies, **self.subsets)

    def lookup(self, name: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Accuracy, percent, float64 `[len(indices)]`. Raises RequestError for an unknown name or subnet."""
        if name not in self.accuracies:
            raise RequestError(
                f"truth: got '{name}', allowed: {', '.join(self.accuracies)}{did_you_mean(name, self.accuracies)}"
            )
        rows = self._rows
        unknown = [index for index in indices if int(index) not in rows]
        if unknown:
            raise RequestError(
                f"truth: got index {unknown[0]}, allowed: the {len(self.indices)} subnets of the table, "
                f"{self.indices.min()} to {self.indices.max()}"
            )
        return self.accuracies[name][[rows[int(index)] for index in indices]]

    def subset(self, name: str | None) -> np.ndarray:
        """The subnets of a named list, or for None all in the table. Raises RequestError for an unknown name."""
        if name is None:
            return self.indices
        if name not in self.subsets:
            held = f", {', '.join(self.subsets)}" if self.subsets else "; the table holds no lists"
            raise RequestError(
                f"truth: got the list '{name}', allowed: null (all){held}{did_you_mean(name, self.subsets)}; type "
                "method.ranking.subset=null, or bring it into the table with --lists of scripts/convert_nats_bench.py"
            )
        return self.subsets[name]

    @property
    def _rows(self) -> Mapping[int, int]:
        return {int(index): row for row, index in enumerate(self.indices)}
