"""CaLR and momentum separation on the small profile of CIFAR-10: the table under results/.

    python scripts/supernet_small_profile.py --data-dir DIR             # 18 sweeps of three seeds, 3.5 hours, one core
    python scripts/supernet_small_profile.py --data-dir DIR --only spos # SPOS, its ablation and its control

DIR holds CIFAR-10 and nas_bench_201.npz. Completed runs are skipped, so the script can be interrupted and restarted.
Every run is an ordinary quantlab run; the row of complexity alone is a baseline that each of them reports. A figure
shows the cosine between momentum and the next gradient with and without momentum separation.
"""

import argparse
import sys
from pathlib import Path

from tables import add_options, sweep_all, write_table

from quantlab.methods.supernet.figures import noise_comparison
from quantlab.report.runs import find_runs
from quantlab.run.directory import RunDirectory

ROWS = (
    "spos",
    "spos_calr_ms",
    "spos_calr",
    "spos_ms",
    "spos_uniform",
    "fairnas",
    "fairnas_released",
    "fairnas_calr_ms",
    "fairnas_calr",
    "fairnas_ms",
    "fsnas",
    "fsnas_calr_ms",
    "fsnas_calr",
    "fsnas_ms",
)
VARIANTS = {"frozen": "method.inactive_parameters=frozen", "40_epochs": "method.epochs=40"}
JOBS = {name: [f"experiment=supernet/small/{name}"] for name in ROWS} | {
    f"{name}_{variant}": [f"experiment=supernet/small/{name}", word]
    for variant, word in VARIANTS.items()
    for name in ("spos", "spos_calr_ms")
}
NOISE = {"one momentum": "spos", "momentum separation": "spos_ms"}
ONLY_IN_CSV = ("spearman", "precision_at_10")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, runs=Path("outputs/supernet_small"))
    options = parser.parse_args()
    failed = sweep_all(JOBS, options.runs, options)
    print(
        write_table(
            options.runs,
            "supernet_small",
            "Supernets: CIFAR-10, small profile",
            "the training",
            options,
            "complexity_alone",
            ONLY_IN_CSV,
        )[0]
    )
    curves = {
        label: [rows for run in find_runs([options.runs / name]) if (rows := RunDirectory(run).metrics.read())]
        for label, name in NOISE.items()
        if (options.runs / name).is_dir()
    }
    if any(curves.values()):
        noise_comparison(curves, options.output / "supernet_small_noise.png")
    return failed


if __name__ == "__main__":
    sys.exit(main())
