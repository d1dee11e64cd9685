"""Intervals of quantized gradients on small profiles: the tables under results/.

    python scripts/low_bit_small_profile.py --data-dir DIR            # 13 sweeps of three seeds, three hours, two cores
    python scripts/low_bit_small_profile.py --data-dir DIR --only w4a4g4    # only four bits
    python scripts/low_bit_small_profile.py --tasks    # super-resolution and detection, embedded data, twenty minutes

Completed runs are skipped, so the script can be interrupted and restarted. Every run is an ordinary quantlab run.
"""

import argparse
import sys
from pathlib import Path

from tables import add_options, sweep_all, write_table

JOBS = {"full_precision": ["experiment=low_bit/small/full_precision"]} | {
    f"w{bits}a{bits}g{bits}_{interval}": [
        "experiment=low_bit/small/w4a4g4",
        *(f"quantizer.{part}.bits={bits}" for part in ("weight", "activation", "gradient")),
        f"quantizer.gradient.interval={interval}",
    ]
    for bits in (4, 5, 8)
    for interval in ("large_gradient", "min_max", "dsgc", "piecewise")
}
TASKS = {
    f"{model}_{interval}": [f"experiment=low_bit/small/{model}_w6a6g6", f"quantizer.gradient.interval={interval}"]
    for model in ("edsr", "retinanet")
    for interval in ("large_gradient", "min_max")
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, runs=Path("outputs/low_bit_small"))
    parser.add_argument("--tasks", action="store_true", help="super-resolution and detection instead of CIFAR-10")
    options = parser.parse_args()
    if options.tasks:
        failed = sweep_all(TASKS, options.runs / "tasks", options)
        print(
            write_table(
                options.runs / "tasks",
                "low_bit_small_tasks",
                "Quantized gradients: super-resolution and detection, small profile",
                "training and full precision",
                options,
            )[0]
        )
        return failed
    failed = sweep_all(JOBS, options.runs / "cifar10", options)
    print(
        write_table(
            options.runs / "cifar10",
            "low_bit_small",
            "Quantized gradients: CIFAR-10, small profile",
            "the training",
            options,
        )[0]
    )
    return failed


if __name__ == "__main__":
    sys.exit(main())
