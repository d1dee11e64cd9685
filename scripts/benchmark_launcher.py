"""What hydra/launcher=processes costs over a shell loop, and what a second worker brings.

    python scripts/benchmark_launcher.py                        # jobs of about a minute
    python scripts/benchmark_launcher.py --steps 50 --jobs 4    # short ones, where starting a job weighs more

The same jobs three times, with one thread each: a loop of `quantlab` in a shell, and the launcher with one worker and
with two. Prints seconds and the two ratios: launcher over loop (to be below 1.03), one worker over two (at least 1.8).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = ("method=pretrain", "task=digits", "model=resnet20", "model.depth=8", "model.width=8", "device=cpu")


def timed(*commands: list[str]) -> float:
    """Seconds that the commands take, one after the other."""
    start = time.perf_counter()
    for command in commands:
        line = [sys.executable, "-m", "quantlab.cli", *command]
        done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            sys.exit(done.stderr)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=6, help="an even number (%(default)s)")
    parser.add_argument("--steps", type=int, default=2_000, help="of each job (%(default)s)")
    options = parser.parse_args()
    seeds = range(options.jobs)
    with tempfile.TemporaryDirectory() as folder:
        words = [*JOB, f"model.pretrain.steps={options.steps}", f"cache_dir={folder}/cache"]
        swept = ["-m", *words, f"seed={','.join(map(str, seeds))}", "hydra/launcher=processes"]

        def launcher(workers: int) -> float:
            return timed([*swept, f"hydra.launcher.workers={workers}", f"output_dir={Path(folder) / str(workers)}"])

        timed([*words[:-2], "model.pretrain.steps=1", words[-1], f"output_dir={folder}/warm"])  # files into memory
        loop = timed(*([*words, f"seed={seed}", f"output_dir={folder}/loop{seed}"] for seed in seeds))
        one, two = launcher(1), launcher(2)
    print(f"{options.jobs} jobs of {options.steps} steps, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"shell loop {loop:.1f} s, processes with one worker {one:.1f} s, with two {two:.1f} s")
    print(f"launcher / loop {one / loop:.3f}; one worker / two {one / two:.2f}")


if __name__ == "__main__":
    main()
