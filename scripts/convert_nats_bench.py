"""The official NAS-Bench-201 or NATS-Bench file to the truth table that method=supernet ranks against.

    python scripts/convert_nats_bench.py NATS-tss-v1_0-3ffb9-simple nas_bench_201.npz
    python scripts/convert_nats_bench.py NAS-Bench-201-v1_1-096897.pth nas_bench_201.npz --lists OTHER.npz

Accepted are NAS-Bench-201-v1_*.pth, NATS-tss-v1_0-*.pickle.pbz2 and the unpacked NATS-tss-v1_0-*-simple, which takes the least memory. They
are pickles, but nothing in them is executed: a file that holds more than containers and numbers is refused.
"""

import argparse
import sys
from pathlib import Path

from quantlab.errors import RequestError
from quantlab.search.nas_bench_201 import NasBench201
from quantlab.search.nats_bench import read_benchmark
from quantlab.search.truth import TruthTable


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", type=Path, help="the official file, or the unpacked folder")
    parser.add_argument("output", type=Path, help="the .npz to write")
    parser.add_argument("--lists", type=Path, metavar="TABLE.npz", help="take over the lists of cells (kendall_indices) of another table")
    options = parser.parse_args()
    try:
        table = read_benchmark(options.benchmark)
        if options.lists is not None:
            table = TruthTable(table.indices, table.accuracies, TruthTable.load(options.lists, NasBench201(), key="--lists").subsets)
        table.save(options.output)
    except RequestError as error:
        print(f"convert_nats_bench: error: {error}", file=sys.stderr)
        return error.exit_code
    space = NasBench201()
    for name, values in table.accuracies.items():
        best = space.encode(space.subnet(int(values.argmax())))
        print(f"{name}: {values.min():.2f} to {values.max():.2f} percent, best cell {best}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
