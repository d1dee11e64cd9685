"""AccuQuant against its baselines at an equal budget of network evaluations: the table under results/.

    python scripts/accuquant_quality.py digits                                   # 36 runs, about 40 minutes on two cores
    python scripts/accuquant_quality.py mnist --data-dir DIR --workers 2

Runs that are there already are skipped, so it can be stopped and started again. Every run is an ordinary quantlab run.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quantlab.report.runs import find_runs, read_run
from quantlab.report.table import aggregate, comparison_rows, to_csv, to_markdown

BITS = ((4, 8), (4, 6), (3, 6))
METHODS = {
    "none": ("experiment=accuquant/small_ptq", "method.reconstruction=none"),
    "step": ("experiment=accuquant/small_ptq", "method.reconstruction=step"),
    "block": ("experiment=accuquant/small_ptq", "method.reconstruction=block"),
    "accuquant": ("experiment=accuquant/small",),
}
TASKS = {
    "digits": (),
    "mnist": ("task=mnist_generation", "task.image_size=16", "model=ddim_mnist"),
}


def sweep(task: str, method: str, bits: tuple[int, int], options: argparse.Namespace) -> int:
    """One method at one bit-width over all seeds, in a process of its own; returns its exit code."""
    weight, activation = bits
    words = [*METHODS[method], *TASKS[task], f"quantizer.weight.bits={weight}", f"quantizer.activation.bits={activation}",
             f"seed={','.join(map(str, range(options.seeds)))}",
             f"output_dir={options.runs / task / f'{method}_w{weight}a{activation}'}"]
    if options.data_dir:
        words.append(f"data_dir={options.data_dir}")
    # Tiny tensors gain nothing from a second thread: one thread per process, as many processes as workers
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // options.workers))}
    print(f"{task} {method} W{weight}A{activation} ...", file=sys.stderr, flush=True)
    log = options.runs / task / f"{method}_w{weight}a{activation}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:
        return subprocess.run([sys.executable, "-m", "quantlab.cli", "-m", *words], env=environment, stdout=file,
                              stderr=subprocess.STDOUT).returncode


def write_table(task: str, options: argparse.Namespace) -> str:
    """results/accuquant_quality_TASK.{md,csv}; returns the Markdown."""
    runs = find_runs([options.runs / task])
    rows = comparison_rows([read_run(run) for run in runs])
    means = aggregate(rows)
    output = options.output / f"accuquant_quality_{task}"
    to_csv(rows, output.with_suffix(".csv"))
    command = " ".join(["python scripts/accuquant_quality.py", *sys.argv[1:]])
    commits = {json.loads((run / "results.json").read_text())["provenance"]["commit"] or "unknown"
               for run in map(Path, runs) if (run / "results.json").is_file()}
    text = (f"# AccuQuant against its baselines: {task}\n\nMade by `{command}` with runs at commit {', '.join(sorted(one[:12] for one in commits))}, {platform.machine()}, "
            f"{os.cpu_count()} cores. Mean ± standard deviation over seeds of the calibration; one full-precision model. "
            f"Single runs: {output.name}.csv.\n\n{to_markdown(means)}\n")
    output.with_suffix(".md").write_text(text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="sweeps at a time")
    parser.add_argument("--runs", type=Path, default=Path("outputs/accuquant_quality"))
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    jobs = [(options.task, method, bits, options) for bits in BITS for method in METHODS]
    codes = [sweep(*jobs[0])]       # alone: it trains and caches the full-precision model for all others
    with ThreadPoolExecutor(options.workers) as pool:
        codes += pool.map(lambda job: sweep(*job), jobs[1:])
    print(write_table(options.task, options))
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
