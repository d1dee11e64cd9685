"""Do two commits give the same results? Runs short commands of every kind with both and compares results bit for bit.

    python scripts/same_results.py main HEAD                     # about 25 minutes on two cores
    python scripts/same_results.py main . --only qat             # the working tree; only cases with this prefix

Compares all numbers in results.json except seconds and memory, and every line of metrics.jsonl. Completed runs are
skipped, so the script can be interrupted and restarted. Exit 1: something differs; the table shows what and by how
much. Half of the file is the list of commands.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

EVERY_STEP = ("device=cpu", "trainer.log_every=1", "trainer.checkpoint_every=4")
DENOISER = (
    *EVERY_STEP,
    "model.unet.block_out_channels=[8,16]",
    "model.unet.norm_num_groups=4",
    "model.pretrain.steps=12",
    "model.pretrain.batch_size=16",
    "model.sampler.steps=6",
    "task.feature_network.pretrain.steps=4",
    "task.feature_network.width=8",
    "task.evaluation.samples=24",
    "task.evaluation.step_error_samples=8",
)
PTQ = (
    *DENOISER,
    "method.calibration.trajectories=12",
    "method.calibration.range_samples=4",
    "method.batch_size=4",
    "method.group_size=3",
)
ACCUQUANT = ("method=accuquant", *PTQ, "method.initialization.iterations=4", "method.iterations=6")
STEPWISE = ("method=ptq", *PTQ, "method.network_evaluations=60")
CLASSIFIER = (*EVERY_STEP, "model.depth=8", "model.width=4", "model.pretrain.steps=10")
TRAINED = (*CLASSIFIER, "method.epochs=1", "method.batch_size=128")
ONE_BIT = ("quantizer.weight.bits=1", "quantizer.activation.bits=1")
SUPERNET = (
    "method=supernet",
    *EVERY_STEP,
    "model.width=2",
    "method.epochs=1",
    "method.batch_size=128",
    "method.ranking.stand_alone.subnets=3",
    "method.ranking.stand_alone.steps=3",
    "method.ranking.batch_size=64",
    "method.search.population=4",
    "method.search.generations=2",
    "method.search.parents=2",
    "method.search.crossover=1",
    "method.search.mutation=1",
)
DETECTOR = (
    *EVERY_STEP,
    "task=detection",
    "model=retinanet_small",
    "trainer.max_steps=2",
    "task.scenes={train: 16, validation: 4, test: 8}",
)
CASES: dict[str, tuple[str, ...]] = {
    "pretrain_denoiser": ("method=pretrain", *DENOISER),
    "pretrain_classifier": ("method=pretrain", "model=resnet20", "task=digits", *CLASSIFIER),
    **{f"accuquant_{gradient}": (*ACCUQUANT, f"method.gradient={gradient}") for gradient in ("copy", "exact", "bptt")},
    "accuquant_adaround_noise": (
        *ACCUQUANT,
        "quantizer.weight.rounding=adaround",
        "model.sampler.eta=0.5",
        "method.loss=l1",
    ),
    "ptq_none": (*STEPWISE, "method.reconstruction=none"),
    "ptq_step": (
        *STEPWISE,
        "method.reconstruction=step",
        "quantizer.attention=true",
        "quantizer.activation.scales=shared",
    ),
    "ptq_step_output": (
        *STEPWISE,
        "method.reconstruction=step",
        "method.step_loss=output",
        "quantizer.weight.symmetric=true",
    ),
    "ptq_block": (
        *STEPWISE,
        "method.network_evaluations=150",
        "method.reconstruction=block",
        "quantizer.weight.rounding=adaround",
    ),
    "qat_sgdt": ("method=qat", *TRAINED),
    "qat_adamt": ("method=qat", *TRAINED, "method.optimizer=adam", "method.rule=momentum_multiplicative"),
    "qat_adamw": ("method=qat", *TRAINED, "method.schedule=learning_rate", "method.optimizer=adamw"),
    "qat_freezing": (
        "method=qat",
        *TRAINED,
        "method.schedule=learning_rate",
        "method.oscillation=freezing",
        "method.freezing.start=0.2",
    ),
    "qat_dampening": (
        "method=qat",
        *TRAINED,
        "method.schedule=learning_rate",
        "method.oscillation=dampening",
        "method.dampening.start=0.2",
    ),
    **{
        f"qat_{quantizer}": ("method=qat", *TRAINED, f"quantizer={quantizer}", "method.schedule=learning_rate")
        for quantizer in ("lsq", "ewgs", "dsq")
    },
    **{
        f"qat_{quantizer}": ("method=qat", *TRAINED, f"quantizer={quantizer}", *ONE_BIT)
        for quantizer in ("binary", "reactnet")
    },
    **{
        f"low_bit_{interval}": (
            "method=low_bit",
            *TRAINED,
            f"quantizer.gradient.interval={interval}",
            "quantizer.gradient.alpha=0.01",
        )
        for interval in ("large_gradient", "dsgc", "piecewise")
    },
    "low_bit_super_resolution": (
        "method=low_bit",
        "task=super_resolution",
        "model=edsr_small",
        *EVERY_STEP,
        "trainer.max_steps=3",
    ),
    "qat_detection": ("method=qat", *DETECTOR),
    **{f"supernet_{sampler}": (*SUPERNET, f"method.sampler={sampler}") for sampler in ("spos", "fairnas", "fsnas")},
    "supernet_mobilenet": (
        *SUPERNET[:4],
        *SUPERNET[5:],
        "model=mobilenet_supernet_small",
        "method.calr=false",
        "trainer.max_steps=4",
    ),
    "sweep": ("-m", *ACCUQUANT, "seed=0,1", "quantizer.weight.bits=3"),
}
# stopped after some steps and resumed
STOPPED = {"resumed_qat": "qat_sgdt", "resumed_accuquant": "accuquant_copy"}


def install(source: str, folder: Path) -> Path:
    """A folder for PYTHONPATH with the package of a commit, or of a checkout's working tree, in the wheel's layout."""
    site = folder / "site"
    if site.exists() and not Path(source).is_dir():
        return site
    checkout = Path(source).resolve()
    if not Path(source).is_dir():
        checkout = folder / "checkout"
        checkout.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", source], check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", checkout], input=archive, check=True)
    shutil.rmtree(site, ignore_errors=True)
    package = site / "quantlab"
    package.mkdir(parents=True)
    for part in [*(checkout / "quantlab").iterdir(), checkout / "cli", checkout / "conf"]:
        (package / part.name).symlink_to(part.resolve())
    return site


def run(words: tuple[str, ...], directory: Path, folder: Path, site: Path) -> None:
    """Run the command in its own process, unless it has completed; its output goes to DIRECTORY.log."""
    if any(directory.rglob("results.json")):
        return
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    target = [] if words[0].startswith("resume=") else [f"output_dir={directory}", f"cache_dir={folder / 'cache'}"]
    with open(f"{directory}.log", "a") as log:
        subprocess.run(
            [sys.executable, "-m", "quantlab.cli", *words, *target],
            env=environment,
            cwd=folder,  # not where this is started: Python would find the package of a checkout there
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def run_stopped(words: tuple[str, ...], directory: Path, folder: Path, site: Path) -> None:
    """The same, interrupted by a signal after some steps are logged, then resumed."""
    if any(directory.rglob("results.json")):
        return
    shutil.rmtree(directory, ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    with open(f"{directory}.log", "a") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "quantlab.cli", *words, f"output_dir={directory}", f"cache_dir={folder / 'cache'}"],
            env=environment,
            cwd=folder,  # not where this is started: Python would find the package of a checkout there
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        metrics = directory / "metrics.jsonl"
        while running.poll() is None and not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= 3):
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
    if running.wait() != 143:
        print(f"{directory}: ended with exit {running.returncode} before it could be stopped", file=sys.stderr)
    run((f"resume={directory}",), directory, folder, site)


def require_own_package(site: Path, folder: Path) -> None:
    """Raises SystemExit where the commands would run another package than the one that is to be compared."""
    code = "import quantlab, quantlab.cli; print(quantlab.__file__); print(quantlab.cli.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True)
    if not all(Path(line).is_relative_to(site) for line in found.stdout.splitlines()) or found.returncode:
        raise SystemExit(f"{folder}: runs would take their package from {found.stdout or found.stderr}")


def run_all(source: str, folder: Path, names: list[str], workers: int) -> None:
    """Run every case under FOLDER/runs, those that fill the caches first and one at a time."""
    site = install(source, folder)
    require_own_package(site, folder)
    (folder / "runs").mkdir(exist_ok=True)

    def one(name: str) -> None:
        print(f"{source}: {name}", file=sys.stderr, flush=True)
        start = run_stopped if name in STOPPED else run
        start(CASES[STOPPED.get(name, name)], folder / "runs" / name, folder, site)

    first = [name for name in names if name.startswith("pretrain")]
    for name in first:
        one(name)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, [name for name in names if name not in first]))


def numbers(value, place: str = "") -> dict[str, float | str]:
    """Every leaf of a JSON value, by path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, part in items for key, leaf in numbers(part, f"{place}/{name}").items()}
    return {place: value}


def measured(directory: Path) -> dict[str, float | str]:
    """What the runs under `directory` measured: by path in results.json, and by step and name in metrics.jsonl."""
    found = {}
    for path in sorted(directory.rglob("results.json")):
        results, job = json.loads(path.read_text()), str(path.parent.relative_to(directory))
        cost = {name: value for name, value in results["cost"].items() if name not in ("seconds", "peak_memory_bytes")}
        found |= numbers(
            {part: results.get(part) or {} for part in ("metrics", "baseline", "best", "diagnostics")} | {"cost": cost},
            job,
        )
        for line in (
            (path.parent / "metrics.jsonl").read_text().splitlines()
            if (path.parent / "metrics.jsonl").is_file()
            else []
        ):
            row = json.loads(line)
            found |= numbers(
                {name: value for name, value in row.items() if "second" not in name}, f"{job}/step {row['step']}"
            )
    return found


def differences(old: dict, new: dict) -> list[str]:
    """One line: how many numbers there are, how many differ, and where the largest relative difference is; then what
    only one side has.
    """
    both = old.keys() & new.keys()
    changed = {
        place
        for place in both
        if old[place] != new[place] and not (old[place] != old[place] and new[place] != new[place])
    }

    def relative(place: str) -> float:
        a, b = old[place], new[place]
        is_number = all(isinstance(value, int | float) for value in (a, b))
        return abs(a - b) / max(abs(a), abs(b)) if is_number else math.inf

    lines = []
    if not both:
        lines.append("no result; see the logs" if not (old or new) else "no result on one side; see its log")
    if changed:
        worst = max(changed, key=relative)
        lines.append(f"{len(changed)} of {len(both)} numbers differ, most {worst}: {old[worst]} and {new[worst]}")
    for side, places in (("old", old.keys() - new.keys()), ("new", new.keys() - old.keys())):
        if both and places:
            lines.append(f"only {side}: {len(places)}, {min(places)} among them")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a commit, or a checkout's folder")
    parser.add_argument("new", help="a commit, or a checkout's folder")
    parser.add_argument("--only", default="", metavar="NAME", help="only cases with this prefix")
    parser.add_argument("--runs", type=Path, default=Path("outputs/same_results"), help="where to put the runs")
    parser.add_argument("--workers", type=int, default=2, help="number of simultaneous runs")
    options = parser.parse_args()
    names = [name for name in [*CASES, *STOPPED] if name.startswith(options.only)]
    folders = {}
    for source in (options.old, options.new):
        if Path(source).is_dir():
            name = "tree_" + Path(source).resolve().name
            shutil.rmtree(options.runs / name, ignore_errors=True)  # the tree may have changed since
        else:
            name = subprocess.run(["git", "rev-parse", source], check=True, capture_output=True, text=True).stdout[:12]
        folders[source] = (options.runs / name).resolve()
        folders[source].mkdir(parents=True, exist_ok=True)
        run_all(source, folders[source], names, options.workers)
    different = 0
    for name in names:
        old, new = (measured(folder / "runs" / name) for folder in folders.values())
        lines = differences(old, new)
        different += bool(lines)
        print(f"{name:32} " + ("; ".join(lines) if lines else f"equal, {len(old)} numbers"))
    print(f"{len(names) - different} of {len(names)} equal")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
