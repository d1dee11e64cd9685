"""CaLR and momentum separation on the small profile of CIFAR-10: the table under results/.

    python scripts/supernet_small_profile.py --data-dir DIR                 # 10 sweeps of three seeds
    python scripts/supernet_small_profile.py --data-dir DIR --only spos     # SPOS, its ablation and its control

DIR holds CIFAR-10 and nas_bench_201.npz. Runs that are there already are skipped, so it can be stopped and started again. Every run is
an ordinary quantlab run; the row of complexity alone is the baseline that each of them measures.
"""

import argparse
import sys
from pathlib import Path

from tables import add_options, sweep_all, write_table

ROWS = ("spos", "spos_calr_ms", "spos_calr", "spos_ms", "spos_uniform", "fairnas", "fairnas_released", "fairnas_calr_ms", "fsnas", "fsnas_calr_ms")
JOBS = {name: [f"experiment=supernet/small/{name}"] for name in ROWS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, runs=Path("outputs/supernet_small"))
    options = parser.parse_args()
    failed = sweep_all(JOBS, options.runs, options)
    print(write_table(options.runs, "supernet_small", "Supernets: CIFAR-10, small profile", "the training", options)[0])
    return failed


if __name__ == "__main__":
    sys.exit(main())
