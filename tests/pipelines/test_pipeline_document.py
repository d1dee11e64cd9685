"""docs/your_own_pipeline.md: its snippets run."""

import re
from pathlib import Path

import pytest

from quantlab.models.pipelines import FAMILIES

own_images = pytest.importorskip("own_images")
DOCUMENT = Path(__file__).parents[2] / "docs" / "your_own_pipeline.md"


def test_the_snippets_draw_images(pipelines, quantized, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"directory": pipelines("sd"), "run": quantized("sd"), "steps": 2}
    programs = re.findall(r"^```py\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    for program in programs:
        exec(compile(program, DOCUMENT.name, "exec"), names)
        assert names.pop("images")[0].size == (16, 16)
    assert len(programs) == 2


def test_every_kind_stands_in_the_table():
    table = DOCUMENT.read_text()
    shown = {"StableDiffusion": "Stable Diffusion 1.x", "StableDiffusionXL": "SDXL", "StableDiffusion3": "Diffusion 3"}
    shown |= {"PixArtAlpha": "PixArt-alpha", "PixArtSigma": "PixArt-Sigma"}
    names = [kind.removesuffix("Pipeline") for kind in FAMILIES]
    assert [name for name in names if shown.get(name, name) not in table] == []
