"""Walks of a loaded pipeline end in the pipeline's own images."""

import numpy as np
import pytest
import torch
from composed import composed
from diffusers import DiffusionPipeline

from quantlab.config import instantiate
from quantlab.diffusion.rollout import seeded_normal
from quantlab.diffusion.trajectories import compute_images
from quantlab.models.given import build_model
from quantlab.run.cache import Cache

PROMPTS = ["a cat", "two dogs on a lawn"]


def open_denoiser(directory, *words):
    config = composed("method=accuquant", "model=pipeline", f"model.path={directory}", *words)
    return build_model(config.model, instantiate(config.task))


def our_images(denoiser, condition, tmp_path):
    denoiser.prepare(Cache(tmp_path / "cache"), "cpu")
    ends = compute_images(denoiser.network(), denoiser.sampler, condition, (2, *denoiser.shape), 7, 2)
    return denoiser.images(ends)


def shown(images):
    return (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


STEPS = "model.sampler.steps=3"
GROUP = "method.group_size=1"
CASES = {
    "pixart": {
        "prompt": PROMPTS,
        "guidance_scale": 4.5,
        "use_resolution_binning": False,
        "clean_caption": False,
        "max_sequence_length": 20,
    },
    "sdxl": {"prompt": PROMPTS, "guidance_scale": 5.0},
    "dit": {"class_labels": [3, 8], "guidance_scale": 4.0},
    "ldm": {"batch_size": 2},
    "ddpm": {"batch_size": 2},
}


@pytest.mark.parametrize("kind", CASES)
def test_walks_end_in_the_pipelines_own_images(kind, pipelines, tmp_path, monkeypatch):
    directory, words = pipelines(kind), CASES[kind]
    options = [f"model.prompts.max_length={words['max_sequence_length']}"] if "max_sequence_length" in words else []
    options += [f"model.guidance.scale={words['guidance_scale']}"] if "guidance_scale" in words else []
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    denoiser = open_denoiser(directory, STEPS, GROUP, f"model.prompts.file={tmp_path / 'prompts.txt'}", *options)
    condition = {}
    if "prompt" in words:
        condition = {"prompt": torch.tensor([0, 1])}
    elif "class_labels" in words:
        condition = {"class_labels": torch.tensor(words["class_labels"])}
    found = our_images(denoiser, condition, tmp_path)

    pipeline = DiffusionPipeline.from_pretrained(directory, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = seeded_normal((2, *denoiser.shape), 7, 0)
    monkeypatch.setattr(f"{type(pipeline).__module__}.randn_tensor", lambda *args, **kwargs: noise.clone())
    own = pipeline(**words, num_inference_steps=3, output_type="np").images
    assert np.abs(shown(found) - own).max() < 1e-5
    assert own.std() > 0.01
