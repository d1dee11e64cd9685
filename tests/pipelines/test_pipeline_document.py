"""docs/your_own_pipeline.md: its snippet runs."""

import re
from pathlib import Path

import pytest

from quantlab.models.pipelines import FAMILIES

own_images = pytest.importorskip("own_images")
DOCUMENT = Path(__file__).parents[2] / "docs" / "your_own_pipeline.md"


def test_the_snippet_draws_images(pipelines, quantlab, tmp_path):
    run, directory = tmp_path / "run", pipelines("sd")
    code, _, err = quantlab(
        "method=ptq",
        "method.reconstruction=none",
        "model=pipeline",
        f"model.path={directory}",
        "model.sampler.steps=2",
        "model.guidance.scale=1",
        "task.evaluation.samples=2",
        "task.evaluation.step_error_samples=1",
        "method.calibration.trajectories=2",
        "method.calibration.range_samples=1",
        "method.batch_size=2",
        "method.group_size=2",
        "method.bias_correction=none",
        "quantizer.weight.scale_search=min_max",
        "quantizer.activation.scale_search=min_max",
        f"output_dir={run}",
    )
    assert code == 0, err
    (program,) = re.findall(r"^```py\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    names = {"directory": directory, "run": run, "steps": 2}
    exec(compile(program, DOCUMENT.name, "exec"), names)
    assert names["images"][0].size == (16, 16)


def test_every_kind_stands_in_the_table():
    table = DOCUMENT.read_text()
    shown = {"StableDiffusion": "Stable Diffusion 1.x", "StableDiffusionXL": "SDXL", "StableDiffusion3": "Diffusion 3"}
    shown |= {"PixArtAlpha": "PixArt-alpha", "PixArtSigma": "PixArt-Sigma"}
    names = [kind.removesuffix("Pipeline") for kind in FAMILIES]
    assert [name for name in names if shown.get(name, name) not in table] == []
