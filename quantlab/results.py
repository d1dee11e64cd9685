"""results.json of a run that is ending: its numbers, what they cost, and where they come from."""

import subprocess
from pathlib import Path
from typing import Any

import torch

import quantlab
from quantlab.config import config_hash
from quantlab.devices import peak_memory
from quantlab.errors import RunError
from quantlab.methods.base import Outcome, RunContext
from quantlab.report.layers import quantized_share
from quantlab.run.plain_json import not_finite


def results_of(context: RunContext, outcome: Outcome, steps: int, seconds: float) -> dict[str, Any]:
    """results.json as plain data; schema in the contract."""
    config, quantizer = context.config, context.config.quantizer
    bits = {part: getattr(quantizer, part).bits for part in ("weight", "activation", "gradient")}
    results = {
        "method": config.method.name,
        "task": config.task.name,
        "model": config.model.name,
        "seed": config.seed,
        "bits": bits,
        "metrics": outcome.metrics,
        "baseline": outcome.baseline,
        "protocol": outcome.protocol,
        "cost": {
            "seconds": round(seconds, 2),
            "steps": steps,
            "peak_memory_bytes": peak_memory(context.device),
            **outcome.cost,
        },
        "provenance": {
            "quantlab": quantlab.__version__,
            "commit": commit(),
            "torch": torch.__version__,
            "device": str(context.device),
            "config_sha256": config_hash(config, without=("output_dir", "resume", "cache_dir")),
        },
    }
    bad = [*not_finite({"baseline": outcome.baseline, "best": outcome.best, "diagnostics": outcome.diagnostics})]
    notes = [*outcome.notes, *([f"NaN or infinite: {', '.join(bad[:5])}"] if bad else [])]
    layers = context.directory.read_layers()
    more = {
        "quantized": None if layers is None else quantized_share(layers, bits),
        "best": outcome.best,
        "diagnostics": outcome.diagnostics,
        "notes": notes,
    }
    return results | {key: value for key, value in more.items() if value}


def require_finite_metrics(outcome: Outcome, steps: int) -> None:
    """Raises RunError where a metric of the run is NaN or infinite: what it measured says nothing of a model."""
    if bad := not_finite(outcome.metrics):
        since = f"after {steps} steps whose losses and weights were finite" if steps else "without a step of training"
        raise RunError(
            f"the run ends with {', '.join(bad)} NaN or infinite, {since}: the model's outputs are too large to be"
            " measured; lower the learning rate, or give other weights or bits, and start again"
        )


def commit() -> str | None:
    """The commit of the source tree this package was imported from, or None where it is no checkout."""
    command = ["git", "-C", str(Path(quantlab.__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
