"""The tables that the supernet paper's code ships, as a truth table with our numbering.

github.com/cvlab-yonsei/DYNAS, exps/NAS-Bench-201-algos/benchmark_data: pickled lists of NAS-Bench-201's accuracies, in
our order of cells, and the list of 327 cells (320 in the file's name) on which the paper measures rank correlations.
Nothing in them is executed, as in `nats_bench`.
"""

from collections.abc import Callable
from numbers import Real
from pathlib import Path

import numpy as np

from quantlab.errors import RequestError
from quantlab.search.nas_bench_201 import NasBench201
from quantlab.search.nats_bench import PlainUnpickler
from quantlab.search.truth import TruthTable

FILES = {
    "cifar10_test": "cifar10_accs.pkl",
    "cifar10_valid": "cifar10_valids.pkl",
    "cifar100_test": "cifar100_accs.pkl",
    "cifar100_valid": "cifar100_valids.pkl",
    "imagenet16_120_test": "imagenet_accs.pkl",
    "imagenet16_120_valid": "imagenet_valids.pkl",
}
LIST, LIST_NAME = "kendal_320_idx.pkl", "kendall_indices"


def is_released(folder: Path) -> bool:
    """Whether a folder is the released `benchmark_data`."""
    return (folder / FILES["cifar10_test"]).is_file()


def read_released(folder: Path) -> TruthTable:
    """The truth table of a released `benchmark_data`: every available accuracy, and the list of cells.

    Raises: RequestError for a file whose content does not match its name.
    """
    size = NasBench201().size
    found = {name: folder / file for name, file in FILES.items() if (folder / file).is_file()}
    accuracies = {
        name: _numbers(
            path, f"{size} accuracies in percent", lambda values: len(values) == size and values.max() <= 100
        )
        for name, path in found.items()
    }
    return TruthTable(np.arange(size), accuracies, read_list(folder / LIST) if (folder / LIST).is_file() else {})


def read_list(path: Path) -> dict[str, np.ndarray]:
    """A pickled list of cells, int64, as `kendall_indices`. Raises RequestError for any other file."""
    size = NasBench201().size

    def is_list(values: np.ndarray) -> bool:
        return (
            values.max() < size
            and len(np.unique(values)) == len(values)
            and bool((values == values.astype(np.int64)).all())
        )

    return {LIST_NAME: _numbers(path, f"different cells, 0 to {size - 1}", is_list).astype(np.int64)}


def _numbers(path: Path, allowed: str, is_sound: Callable[[np.ndarray], bool]) -> np.ndarray:
    try:
        with open(path, "rb") as stream:
            content = PlainUnpickler(stream).load()
    except Exception as error:  # pickle, fed with damaged bytes, raises almost anything
        raise RequestError(
            f"{path}: not readable ({error}), allowed: a pickled list of numbers, as the supernet paper's code ships"
        ) from None
    if isinstance(content, list) and content and all(isinstance(value, Real) for value in content):
        values = np.array(content, dtype=np.float64)
        if np.isfinite(values).all() and values.min() >= 0 and is_sound(values):
            return values
    raise RequestError(f"{path}: holds no list of {allowed}; give the file that the supernet paper's code ships")
