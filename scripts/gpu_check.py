"""All that needs a GPU, in one command within 20 minutes: the tests marked `gpu`, then the cost of an iteration.

    python scripts/gpu_check.py                                  # writes results/gpu.md and results/gpu.json
    python scripts/gpu_check.py --device cpu --profile tiny      # the same code without a GPU, on tiny networks

The cost is that of one AccuQuant iteration on the UNets of Stable Diffusion 1.4 and SDXL at group sizes 1, 5 and 10, in
float32 and bfloat16, learning activation scales alone or rounding too, beside one iteration of every unit of block
reconstruction: seconds, and the peak of memory (`benchmark_stable_diffusion_memory.py`). What does not fit is said so.

Exit code 1: a test has failed. 2: there is no such device.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import benchmark_stable_diffusion_memory as iteration
from own_process import columns_table

from quantlab.optional import problem_of

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "gpu"
GROUPS = {"full": [1, 5, 10], "tiny": [1, 2]}  # by profile
MINUTES = 20


def costs(device: str, profile: str) -> Iterator[dict[str, Any]]:
    """The rows of the table. Tiny networks are measured in this process, whose memory they do not change."""
    tiny = profile == "tiny"
    common = {"device": device, "checkpointing": False, "threads": None, "limit": None, "small": tiny}
    for network in iteration.NETWORKS:
        for learn in iteration.LEARN:
            # block reconstruction trains in float32 alone
            for compute in ("float32",) if learn == iteration.BLOCK else ("float32", "bfloat16"):
                options = common | {"network": network, "learn": learn, "compute": compute}
                yield from iteration.rows_of(GROUPS[profile], options, apart=not tiny)


def checks(device: str, folder: Path) -> list[dict[str, Any]]:
    """What every test of tests/gpu on that device came to: `check`, `outcome`, `seconds`, and why it failed."""
    report = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", str(TESTS), "-m", "", "-k", device, f"--junitxml={report}", "-q"]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
    return outcomes(report) if report.is_file() else [{"check": "tests/gpu", "outcome": "failed", "seconds": ""}]


def outcomes(report: Path) -> list[dict[str, Any]]:
    """The tests of a JUnit report."""
    rows = []
    for case in ElementTree.parse(report).iter("testcase"):
        row = {"check": case.get("name"), "outcome": "passed", "seconds": round(float(case.get("time", 0)), 1)}
        for kind, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
            if (found := case.find(kind)) is not None:
                line = (found.get("message", "").strip().splitlines() or [""])[0]
                row |= {"outcome": outcome, "why": line[:200].replace("|", "/")}
        rows.append(row)
    return rows


def machine(device: str) -> str:
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def page(words: list[str], where: str, seconds: float, tested: list[dict], measured: list[dict]) -> str:
    command = " ".join(["python scripts/gpu_check.py", *words])
    late = "" if seconds < 60 * MINUTES else f", more than the {MINUTES} that it should take"
    parts = [f"# On a GPU\n\nMade by `{command}`: {where}; {seconds / 60:.1f} minutes{late}."]
    if measured:
        parts.append(
            "## Cost of an iteration\n\nBatch 1, W4A8, `copy`; peak: of the allocator on CUDA, of the process on a CPU"
            f" (none of its own with --profile tiny).\n\n{columns_table(measured)}"
        )
    if tested:
        passed = sum(row["outcome"] == "passed" for row in tested)
        parts.append(f"## Tests\n\n{passed} of {len(tested)} passed.\n\n{columns_table(tested)}")
    return "\n\n".join(parts) + "\n"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--profile", default="full", choices=list(GROUPS))
    parser.add_argument("--only", choices=["tests", "cost"], help="one of the two parts")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "gpu", help="write OUTPUT.md and OUTPUT.json")
    options = parser.parse_args(words)
    if options.only != "cost" and (problem := problem_of("pytest", "test", "gpu_check")):
        print(f"gpu_check: error: {problem}", file=sys.stderr)
        return 2

    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        line = "torch sees no CUDA device here; type --device cpu --profile tiny for the same on tiny networks"
        print(f"gpu_check: error: {line}", file=sys.stderr)
        return 2
    started, where = time.perf_counter(), machine(options.device)
    tested, measured = [], []
    if options.only != "cost":
        with tempfile.TemporaryDirectory() as folder:
            tested = checks(options.device, Path(folder))
    if options.only != "tests":
        measured = list(costs(options.device, options.profile))
    text = page(words, where, time.perf_counter() - started, tested, measured)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".md").write_text(text)
    found = {"machine": where, "tests": tested, "cost": measured}
    options.output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(text)
    return int(any(row["outcome"] == "failed" for row in tested))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
