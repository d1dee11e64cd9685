"""Converts the accuracies of NAS-Bench-201's cells to the truth table that method=supernet ranks against.

    git clone https://github.com/cvlab-yonsei/DYNAS
    python scripts/convert_nats_bench.py DYNAS/exps/NAS-Bench-201-algos/benchmark_data DIR/nas_bench_201.npz
    python scripts/convert_nats_bench.py NATS-tss-v1_0-3ffb9-simple DIR/nas_bench_201.npz \\
        --lists DYNAS/exps/.../kendal_320_idx.pkl

The first is the supernet paper's own copy of the benchmark's accuracies, with the list of cells on which
experiment=supernet/... measures rank correlations (kendall_indices). The benchmark's own files
(NAS-Bench-201-v1_*.pth, NATS-tss-v1_0-*.pickle.pbz2, and the unpacked NATS-tss-v1_0-*-simple, which needs the least
memory) have no such list; --lists adds it from that file or from another table. All are pickles, but nothing in them is
executed: a file with anything but containers and numbers is refused.
"""

import argparse
import sys
from pathlib import Path

from quantlab.errors import RequestError
from quantlab.search.nas_bench_201 import NasBench201
from quantlab.search.nats_bench import read_benchmark
from quantlab.search.released_tables import LIST, LIST_NAME, is_released, read_list, read_released
from quantlab.search.truth import TruthTable


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "benchmark", type=Path, help="the official file or its unpacked folder, or the paper's benchmark_data"
    )
    parser.add_argument(
        "output",
        type=Path,
        help="the .npz to write; as DIR/nas_bench_201.npz the experiments find it with data_dir=DIR",
    )
    parser.add_argument(
        "--lists", type=Path, metavar="FILE", help=f"{LIST}, or another table (.npz) whose lists of cells are copied"
    )
    options = parser.parse_args()
    try:
        # first what is read quickly: a benchmark takes minutes
        lists = {} if options.lists is None else read_lists(options.lists)
        benchmark = options.benchmark.expanduser()
        table = read_released(benchmark) if is_released(benchmark) else read_benchmark(benchmark)
        table = TruthTable(table.indices, table.accuracies, {**table.subsets, **lists})
        options.output.parent.mkdir(parents=True, exist_ok=True)
        table.save(options.output)
    except RequestError as error:
        print(f"convert_nats_bench: error: {error}", file=sys.stderr)
        return error.exit_code
    space = NasBench201()
    for name, values in table.accuracies.items():
        best = space.encode(space.subnet(int(values.argmax())))
        print(f"{name}: {values.min():.2f} to {values.max():.2f} percent, best cell {best}")
    for name, cells in table.subsets.items():
        print(f"{name}: {len(cells)} cells")
    if LIST_NAME not in table.subsets:
        print(
            f"no {LIST_NAME}: rank correlations will be of all cells (method.ranking.subset=null); the paper's are of a"
            f" list, {LIST} of github.com/cvlab-yonsei/DYNAS, which --lists adds"
        )
    return 0


def read_lists(path: Path) -> dict:
    """The lists of cells of another table, or of the paper's own file."""
    path = path.expanduser()
    return (
        read_list(path) if path.suffix == ".pkl" else dict(TruthTable.load(path, NasBench201(), key="--lists").subsets)
    )


if __name__ == "__main__":
    sys.exit(main())
