"""Transition rates against learning rates on the small profile of CIFAR-10: the tables under results/.

    python scripts/qat_small_profile.py optimizers --data-dir DIR    # W1A1 and W2A2, SGD, SGDT, Adam, AdamT: 24 runs
    python scripts/qat_small_profile.py optimizers --data-dir DIR --only w1a1 --seeds 6  # 3 more seeds of W1A1: 12 runs
    python scripts/qat_small_profile.py targets --data-dir DIR   # W2A2, SGDT, lambda from 1e-3 to 8e-3: 8 runs per seed

Completed runs are skipped, so the script can be interrupted and restarted. Every run is an ordinary quantlab run.
"""

import argparse
import sys
from pathlib import Path

from tables import add_options, sweep_all, write_table

from quantlab.report.table import spread
from quantlab.report.transitions import accuracy_over_targets

TARGETS = [f"{number}e-3" for number in range(1, 9)]
JOBS = {
    "optimizers": {
        f"{bits}_{optimizer}": [f"experiment=qat/small/{bits}_{optimizer}"]
        for bits in ("w1a1", "w2a2")
        for optimizer in ("sgd", "sgdt", "adam", "adamt")
    },
    "targets": (
        {"sgd": ["experiment=qat/small/w2a2_sgd"]}
        | {
            f"sgdt_{target}": ["experiment=qat/small/w2a2_sgdt", f"method.target_transition_rate={target}"]
            for target in TARGETS
        }
    ),
}
TITLES = {
    "optimizers": "Transition rates against learning rates: CIFAR-10, small profile",
    "targets": "The target transition rate: CIFAR-10, small profile, W2A2",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=JOBS)
    add_options(parser, runs=Path("outputs/qat_small"))
    options = parser.parse_args()
    folder = options.runs / options.table
    failed = sweep_all(JOBS[options.table], folder, options)
    name = f"qat_small_{options.table}"
    text, rows = write_table(folder, name, TITLES[options.table], "the training; one full-precision model", options)
    print(text)
    if options.table == "targets":

        def accuracies(method: str, target: str) -> list[float]:
            return [
                row["top1"]
                for row in rows
                if row["method"] == method
                and "top1" in row
                and (method == "qat/sgd" or row["settings"]["method.target_transition_rate"] == float(target))
            ]

        found = {float(target): spread(values) for target in TARGETS if (values := accuracies("qat/sgdt", target))}
        accuracy_over_targets(found, spread(accuracies("qat/sgd", "")), options.output / f"{name}.png")
    return failed


if __name__ == "__main__":
    sys.exit(main())
