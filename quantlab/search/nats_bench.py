"""The official files of NAS-Bench-201 and NATS-Bench (topology space) as a truth table with our numbering.

The files are the state dictionaries that the authors' own interface reads (github.com/D-X-Y/NATS-Bench): per cell and
training length, the accuracy of every seed on every data set after every epoch. We keep the last epoch of the longest
training (200 epochs), averaged over seeds. The files are pickles, but nothing in them is executed: only plain
containers and numbers are read, anything else is refused.
"""

import bz2
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantlab.errors import RequestError
from quantlab.search.nas_bench_201 import EDGES, OPERATIONS, NasBench201
from quantlab.search.spaces import Subnet
from quantlab.search.truth import TruthTable

# Our names: the benchmark's data set (what it was trained on) and part (what it was measured on)
SOURCES = {
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar10_valid": ("cifar10-valid", "x-valid"),
    "cifar100_test": ("cifar100", "x-test"),
    "cifar100_valid": ("cifar100", "x-valid"),
    "imagenet16_120_test": ("ImageNet16-120", "x-test"),
    "imagenet16_120_valid": ("ImageNet16-120", "x-valid"),
}
LONGEST = ("200", "full")  # the 200-epoch training's name in NATS-Bench and in NAS-Bench-201
NUMPY_SCALAR = np.float64(0).__reduce__()[0]
PLAIN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "scalar"): NUMPY_SCALAR,
    ("numpy._core.multiarray", "scalar"): NUMPY_SCALAR,
}


class PlainUnpickler(pickle.Unpickler):
    """Containers and numbers only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN:
            raise pickle.UnpicklingError(f"it contains {module}.{name}; only plain containers and numbers are read")
        return PLAIN[module, name]


def read_benchmark(path: str | Path) -> TruthTable:
    """The truth table of an official file, percent by the names of `SOURCES`.

    path: NAS-Bench-201-v1_*.pth, NATS-tss-v1_0-*.pickle.pbz2 (both are loaded whole, which takes tens of GB of memory),
    or the unpacked folder NATS-tss-v1_0-*-simple (one cell at a time). Raises RequestError for anything else, and for a
    file without some cell.
    """
    path, space = Path(path).expanduser(), NasBench201()
    accuracies = {name: np.full(space.size, np.nan) for name in SOURCES}
    for text, results in _cells(path):
        number = space.index(parse_cell(text))
        for name, (data, part) in SOURCES.items():
            accuracies[name][number] = mean_accuracy(results, data, part)
    missing = {name: int(np.isnan(values).sum()) for name, values in accuracies.items() if np.isnan(values).any()}
    if missing:
        name, count = next(iter(missing.items()))
        raise RequestError(f"{path}: {count} of {space.size} cells have no {name}, allowed: a benchmark of all cells")
    return TruthTable(np.arange(space.size), accuracies)


def parse_cell(text: str) -> Subnet:
    """`"|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"` to a subnet. Raises RequestError
    for other text.
    """
    names = {}
    for target, node in enumerate(text.split("+"), start=1):
        for edge in node.strip("|").split("|"):
            name, _, source = edge.partition("~")
            names[source, target] = name
    wanted = [(str(source), target) for source, target in EDGES]
    if sorted(names) != sorted(wanted) or not set(names.values()) <= set(OPERATIONS):
        raise RequestError(
            f"cell: got '{text}', allowed: one of {', '.join(OPERATIONS)} on each of six edges, as |OPERATION~SOURCE|"
        )
    return tuple(OPERATIONS.index(names[edge]) for edge in wanted)


def mean_accuracy(results: Mapping[str, Any], data: str, part: str) -> float:
    """Percent, after the last epoch, averaged over the seeds that were trained; NaN if none was, or it was not measured
    on that part.
    """
    trials = [results["all_results"][data, seed] for seed in results["dataset_seed"].get(data, ())]
    return (
        float(np.mean([trial["eval_acc1es"].get(f"{part}@{trial['epochs'] - 1}", np.nan) for trial in trials]))
        if trials
        else np.nan
    )


def _cells(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every cell's text and its results of the longest training."""
    if path.is_dir():
        files = sorted(file for file in path.glob("*.pickle.pbz2") if not file.name.startswith("meta"))
        if not files:
            raise RequestError(
                f"{path}: holds no cells, allowed: the unpacked NATS-tss-v1_0-*-simple with one .pickle.pbz2 per cell"
            )
        trainings: Iterable[Mapping[str, Any]] = map(_unpickle, files)
    else:
        content = _unpickle(path) if path.name.endswith(".pbz2") else _torch_load(path)
        if not isinstance(content, Mapping) or "arch2infos" not in content:
            raise RequestError(f"{path}: is no NAS-Bench-201 or NATS-Bench file, allowed: a dictionary with arch2infos")
        trainings = content["arch2infos"].values()
    for training in trainings:
        try:
            results = next(training[name] for name in LONGEST if name in training)
            yield results["arch_str"], results
        except (StopIteration, KeyError, TypeError):
            raise RequestError(
                f"{path}: a cell has no training of 200 epochs, allowed: the topology benchmark; the size benchmark's"
                " cells belong to another space"
            ) from None


def _unpickle(path: Path) -> Any:
    try:
        with bz2.open(path) as stream:
            return PlainUnpickler(stream).load()
    except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise RequestError(
            f"{path}: not readable ({error}), allowed: an official NATS-tss-v1_0-*.pickle.pbz2"
        ) from None


def _torch_load(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RequestError(
            f"{path}: not readable ({line}), allowed: an official NAS-Bench-201-v1_*.pth or NATS-tss-v1_0-*.pickle.pbz2"
        ) from None
