"""Hand-made run directories, as written by the runner."""

import json

import pytest
import yaml


@pytest.fixture
def make_run(tmp_path):
    """make_run(name, method=..., metrics=..., ...) writes a run directory below tmp_path and returns its path."""

    def make(name="run", method="accuquant", seed=0, metrics=None, state="completed", protocol=None, typed=(), **more):
        directory = tmp_path / name
        (directory / ".hydra").mkdir(parents=True)
        config = {
            "seed": seed,
            "output_dir": str(directory),
            "task": {"name": "digits_generation"},
            "model": {"name": "ddim", **more.get("model", {})},
            "quantizer": {"weight": {"bits": 4}, "activation": {"bits": 8}, "gradient": {"bits": 32}},
            "method": {"name": method, **more.get("settings", {})},
        }
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
        (directory / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(typed)))
        (directory / "status.json").write_text(json.dumps({"state": state, "error": more.get("error"), "exit_code": 0}))
        if metrics is not None:
            results = {
                "schema": 1,
                "method": method,
                "task": "digits_generation",
                "model": "ddim",
                "seed": seed,
                "bits": more.get("bits", {"weight": 4, "activation": 8, "gradient": 32}),
                "metrics": metrics,
                "baseline": more.get("baseline", {}),
                "protocol": {"samples": 1024, "fid_features": "task_classifier"} if protocol is None else protocol,
                "cost": {"seconds": 93.125, "steps": 400, "peak_memory_bytes": 700 * 2**20},
                "provenance": {"quantlab": "0.1.0", "device": "cpu"},
            }
            (directory / "results.json").write_text(json.dumps(results))
        return directory

    return make


@pytest.fixture
def log():
    """log(directory, row, ...) writes metrics.jsonl of a run."""

    def write(directory, *rows):
        (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    return write


@pytest.fixture
def many_runs(make_run, log):
    """many_runs(count): so many runs of five seeds each, with logs of 300 rows and a picture that hardly compresses."""
    from random import Random

    import numpy as np
    from PIL import Image

    def make(count):
        chance = Random(0)
        pixels = np.random.default_rng(0).integers(0, 255, (160, 400, 3), dtype=np.uint8)
        rows = [{"step": step, **{f"quantity_{key}": 1 / (step + key) for key in range(8)}} for step in range(1, 301)]
        for number in range(count):
            settings = {"group_size": number // 5}
            run = make_run(f"runs/{number}", seed=number % 5, metrics={"fid": chance.random()}, settings=settings)
            log(run, *rows)
            (run / "samples").mkdir()
            pixels[0, 0] = number % 256
            Image.fromarray(pixels).save(run / "samples" / "comparison.png")

    return make
