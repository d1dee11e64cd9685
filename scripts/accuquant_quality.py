"""AccuQuant against its baselines at an equal budget of network evaluations: the table under results/.

    python scripts/accuquant_quality.py digits                            # 36 runs, about 40 minutes on two cores
    python scripts/accuquant_quality.py mnist --data-dir DIR --workers 2

Completed runs are skipped, so the script can be interrupted and restarted. Every run is an ordinary quantlab run.
"""

import argparse
import sys
from pathlib import Path

from tables import add_options, sweep_all, write_table

BITS = ((4, 8), (4, 6), (3, 6))
METHODS = {
    "none": ("experiment=accuquant/small_ptq", "method.reconstruction=none"),
    "step": ("experiment=accuquant/small_ptq", "method.reconstruction=step"),
    "block": ("experiment=accuquant/small_ptq", "method.reconstruction=block"),
    "accuquant": ("experiment=accuquant/small",),
}
TASKS = {"digits": (), "mnist": ("task=mnist_generation", "task.image_size=16", "model=ddim_mnist")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    add_options(parser, runs=Path("outputs/accuquant_quality"))
    options = parser.parse_args()
    jobs = {
        f"{method}_w{weight}a{activation}": [
            *METHODS[method],
            *TASKS[options.task],
            f"quantizer.weight.bits={weight}",
            f"quantizer.activation.bits={activation}",
        ]
        for weight, activation in BITS
        for method in METHODS
    }
    folder = options.runs / options.task
    failed = sweep_all(jobs, folder, options)
    title = f"AccuQuant against its baselines: {options.task}"
    print(
        write_table(
            folder, f"accuquant_quality_{options.task}", title, "the calibration; one full-precision model", options
        )[0]
    )
    return failed


if __name__ == "__main__":
    sys.exit(main())
