"""What hydra/launcher=processes costs over a shell loop, and what a second worker brings.

    python scripts/benchmark_launcher.py                        # jobs of about a minute; twenty minutes, two idle cores
    python scripts/benchmark_launcher.py --steps 700 --jobs 4 --output results/launcher

The same jobs three times, with one thread each: a loop of `quantlab` in a shell, and the launcher with one worker and
with two. What the launcher costs is the same for a job of any length, so that shorter jobs do; what a second worker
brings is more for longer ones, since the launcher itself starts once. To be below 3 % of a minute, and at least 1.8.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = ("method=pretrain", "task=digits", "model=resnet20", "model.depth=8", "model.width=8", "device=cpu")
MINUTE = 60.0


def timed(*commands: list[str]) -> float:
    """Seconds that the commands take, one after the other."""
    start = time.perf_counter()
    for command in commands:
        line = [sys.executable, "-m", "quantlab.cli", *command]
        done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            sys.exit(done.stderr)
    return time.perf_counter() - start


def measure(jobs: int, steps: int) -> tuple[float, float, float]:
    """Seconds of the shell's loop, and of the launcher with one worker and with two."""
    seeds = range(jobs)
    with tempfile.TemporaryDirectory() as folder:
        words = [*JOB, f"model.pretrain.steps={steps}"]
        swept = ["-m", *words, f"model.pretrain.seed={','.join(map(str, seeds))}", "hydra/launcher=processes"]

        def places(name: str) -> list[str]:  # a cache each, or the second would train nothing
            return [f"output_dir={folder}/{name}", f"cache_dir={folder}/cache_{name.split('/')[0]}"]

        def launcher(workers: int) -> float:
            return timed([*swept, f"hydra.launcher.workers={workers}", *places(f"workers_{workers}")])

        timed([*JOB, "model.pretrain.steps=1", *places("warm")])  # files into memory
        loop = timed(*([*words, f"model.pretrain.seed={seed}", *places(f"loop/{seed}")] for seed in seeds))
        return loop, launcher(1), launcher(2)


def report(jobs: int, steps: int, seconds: tuple[float, float, float], load: tuple[float, float]) -> str:
    loop, one, two = seconds
    extra = (one - loop) / jobs
    return f"""# Cost of the launcher `processes`

`python scripts/benchmark_launcher.py {" ".join(sys.argv[1:])}`: {jobs} jobs of {steps} steps, one thread each, \
{platform.machine()}, {os.cpu_count()} cores; load of the machine before and after: {load[0]:.1f}, {load[1]:.1f}.

| | seconds | a job |
|---|---:|---:|
| a loop in a shell | {loop:.1f} | {loop / jobs:.1f} |
| one worker | {one:.1f} | {one / jobs:.1f} |
| two workers | {two:.1f} | {two / jobs:.1f} |

The launcher with one worker takes {extra:+.2f} s a job against the loop, {100 * extra / MINUTE:+.1f} % of a minute. \
Two workers are {one / two:.2f} times as fast as one.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=6, help="an even number (%(default)s)")
    parser.add_argument("--steps", type=int, default=2_000, help="of each job (%(default)s)")
    parser.add_argument("--output", type=Path, help="also write FILE.md")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    seconds = measure(options.jobs, options.steps)
    text = report(options.jobs, options.steps, seconds, (before, os.getloadavg()[0]))
    print(text, end="")
    if options.output:
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
