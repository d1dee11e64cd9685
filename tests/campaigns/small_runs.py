"""Runs of every method that take a second, and the command in this process: what the campaigns try things with."""

import contextlib
import io
import json
from pathlib import Path

from tiny import TINY, TINY_PTQ

from quantlab.run.directory import RunDirectory

EVERY_STEP = ("device=cpu", "trainer.log_every=1", "trainer.checkpoint_every=2")
CLASSIFIER = (*EVERY_STEP, "model.depth=8", "model.width=4", "model.pretrain.steps=4")
SMALL: dict[str, tuple[str, ...]] = {
    "pretrain_classifier": ("method=pretrain", "model=resnet20", "task=digits", *CLASSIFIER),
    "pretrain_denoiser": ("method=pretrain", *TINY, *EVERY_STEP, "model.pretrain.steps=5"),
    "accuquant": (
        "method=accuquant",
        *TINY_PTQ,
        *EVERY_STEP,
        "method.initialization.iterations=2",
        "method.iterations=3",
    ),
    "ptq": ("method=ptq", *TINY_PTQ, *EVERY_STEP, "method.reconstruction=step", "method.network_evaluations=15"),
    "qat": ("method=qat", *CLASSIFIER, "trainer.max_steps=5", "method.batch_size=64"),
    "low_bit": ("method=low_bit", *CLASSIFIER, "trainer.max_steps=5", "method.batch_size=64"),
    "supernet": (
        "method=supernet",
        *EVERY_STEP,
        "model.width=2",
        "trainer.max_steps=5",
        "method.batch_size=64",
        "method.ranking.stand_alone.subnets=3",
        "method.ranking.stand_alone.steps=3",
        "method.ranking.batch_size=64",
        "method.search.population=4",
        "method.search.generations=2",
        "method.search.parents=2",
        "method.search.crossover=1",
        "method.search.mutation=1",
    ),
}


def quantlab(*words: str) -> tuple[int, str]:
    """Exit code of the command, and all that it printed."""
    from quantlab.cli.main import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([*words])
    return code, said.getvalue()


def whole(name: str, shared: Path) -> Path:
    """The directory of that run, uninterrupted, made by the first that asks."""
    from filelock import FileLock

    directory = shared / name
    with FileLock(shared / f"{name}.lock"):
        if not (directory / "results.json").exists():
            # what it trains is not to be found in the cache already
            cache = shared / (f"cache of {name}" if name.startswith("pretrain") else "cache")
            code, said = quantlab(*SMALL[name], f"output_dir={directory}", f"cache_dir={cache}")
            assert code == 0, said[-2000:]
    return directory


def same_numbers(directory: Path, reference: Path, *parts: str) -> str:
    """What differs between the results of two runs: metrics and what stands beside them, cost without time, logged
    lines, the model's bytes; or nothing. parts: only these keys of results.json.
    """
    ours, theirs = (_numbers(folder, parts) for folder in (directory, reference))
    return ", ".join(key for key in theirs if ours.get(key) != theirs[key])


def _numbers(directory: Path, parts: tuple[str, ...]) -> dict[str, object]:
    results = json.loads((directory / "results.json").read_text())
    if parts:
        return {part: results.get(part) for part in parts}
    found = {part: results.get(part) for part in ("metrics", "baseline", "protocol", "best", "diagnostics")}
    found["cost"] = {
        key: value for key, value in results["cost"].items() if key not in ("seconds", "peak_memory_bytes")
    }
    rows = RunDirectory(directory).metrics.read()
    found["rows"] = sorted(json.dumps(row, sort_keys=True) for row in rows)
    found["model"] = (directory / "checkpoints" / "model.safetensors").read_bytes()
    return found
