"""Many trials of what must never go wrong: kills, damage, hostile files, mutated commands. Writes results/campaigns.md.

    python scripts/campaigns.py                              # every campaign of tests/campaigns/campaigns.yaml
    python scripts/campaigns.py --only damaged_files         # one
    python scripts/campaigns.py --only damaged_files --seed 17   # one trial again: what it printed, and how it ended

Trials that were made at this commit are not made again, so that the script can be interrupted and restarted. The report
has every campaign that was tried at this commit. Exit 1: a trial found a fault.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "campaigns"), str(ROOT / "tests")]

from campaign import CONFIG, Trial, about, seeds, try_one  # noqa: E402

REPORT = ROOT / "results" / "campaigns.md"
WITHOUT_LIBRARIES = ("mutated_commands",)  # whose trials end where a run would load them


def made(file: Path) -> dict[int, Trial]:
    """The trials that stand in a log, by seed."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return {trial.seed: trial for trial in (Trial(**json.loads(line)) for line in lines)}


def load_libraries() -> None:
    """In a new process, before its first trial: a limit of time that ran out amid an import would leave half a module,
    and every later trial would stumble over it.
    """
    import diffusers  # noqa: F401
    import timm  # noqa: F401
    import torch._dynamo  # noqa: F401


def run_quietly(name: str, seed: int, folder: Path) -> Trial:
    """A trial whose output goes to a file."""
    descriptor = os.open(folder / f"{name}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    return try_one(name, seed, folder / "shared")


def run_campaign(name: str, folder: Path, workers: int, count: int | None) -> None:
    """Make the trials that are missing, at most up to the `count`th, each written down as it ends."""
    log = folder / f"{name}.jsonl"
    left = [seed for seed in seeds(name, "full")[:count] if seed not in made(log)]
    (folder / "shared").mkdir(parents=True, exist_ok=True)
    number, share = 0, 50 * workers
    for first in range(0, len(left), share):
        # New processes for each share: what trials leave in memory goes with them. (`max_tasks_per_child` would do it,
        # but in Python 3.11 a pool that replaces a process can wait for ever: cpython issue 115634.)
        begin = None if name in WITHOUT_LIBRARIES else load_libraries
        started = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=begin)
        with started as pool, log.open("a") as file:
            trials = [pool.submit(run_quietly, name, seed, folder) for seed in left[first : first + share]]
            for done in as_completed(trials):
                trial, number = done.result(), number + 1
                file.write(json.dumps(asdict(trial)) + "\n")
                file.flush()
                if trial.fault or number % 50 == 0 or number == len(left):
                    print(
                        f"{name}: {number} of {len(left)}; seed {trial.seed}: {trial.fault or trial.outcome}",
                        flush=True,
                    )


def report(folder: Path, commit: str) -> str:
    """The page: a table of campaigns, what their trials came to, and every fault with its seed."""
    names = [name for name in CONFIG if made(folder / f"{name}.jsonl")]
    trials = {name: list(made(folder / f"{name}.jsonl").values()) for name in names}
    lines = ["# Campaigns", "", f"`python scripts/campaigns.py` at commit {commit}, on {os.cpu_count()} cores.", ""]
    lines += ["| campaign | tried | right | slowest | minutes |", "|---|---:|---:|---:|---:|"]
    for name in names:
        own, right = trials[name], [trial for trial in trials[name] if not trial.fault]
        seconds = [trial.seconds for trial in own]
        lines.append(f"| {name} | {len(own)} | {len(right)} | {max(seconds):.1f} s | {sum(seconds) / 60:.1f} |")
    for name in names:
        outcomes = Counter(trial.outcome for trial in trials[name] if not trial.fault)
        lines += ["", f"## {name}", "", about(name), ""]
        lines += [f"- {count} {outcome}" for outcome, count in outcomes.most_common()]
        lines += [f"- **seed {trial.seed}**: {trial.fault}" for trial in trials[name] if trial.fault]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME", help="only campaigns with this prefix")
    parser.add_argument("--seed", type=int, help="make this one trial again, and show what it prints")
    parser.add_argument("--count", type=int, help="trials of each campaign; by default as many as its `full` says")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trials at a time")
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / "campaigns", help="where logs and runs go")
    options = parser.parse_args()
    names = [name for name in CONFIG if name.startswith(options.only)]
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True).stdout.strip()
    folder = options.runs / commit
    (folder / "shared").mkdir(parents=True, exist_ok=True)
    if options.seed is not None:
        found = [try_one(name, options.seed, folder / "shared") for name in names]
        print(*found, sep="\n")
        return int(any(trial.fault for trial in found))
    for name in names:
        run_campaign(name, folder, options.workers, options.count)
    REPORT.write_text(report(folder, commit))
    print(f"{REPORT}")
    return int(any(trial.fault for name in names for trial in made(folder / f"{name}.jsonl").values()))


if __name__ == "__main__":
    sys.exit(main())
