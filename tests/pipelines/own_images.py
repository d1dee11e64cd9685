"""Images that a pipeline draws by itself, from noise and conditions of ours."""

import itertools
import sys

import numpy as np
from composed import composed
from diffusers import DiffusionPipeline

from quantlab.config import instantiate
from quantlab.diffusion.rollout import seeded_normal
from quantlab.models.given import build_model

SIZE = {"flux": 16}  # whose config does not say its own
WORDS = {
    "pixart": {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 20},
    "sd3": {"max_sequence_length": 20},
    "flux": {"max_sequence_length": 20, "height": 16, "width": 16},
}


def our_words(kind):
    """Of the command, what goes with WORDS."""
    found = [f"model.image_size={SIZE[kind]}"] if kind in SIZE else []
    return found + (["model.prompts.max_length=20"] if "max_sequence_length" in WORDS.get(kind, {}) else [])


def open_denoiser(directory, *words):
    config = composed("method=accuquant", "model=pipeline", f"model.path={directory}", *words)
    return build_model(config.model, instantiate(config.task))


def loaded(directory):
    pipeline = DiffusionPipeline.from_pretrained(directory, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, kind, denoiser, condition, seed, monkeypatch, **words):
    """float [N, H, W, 3] in [0, 1]; condition: of the walks, as the denoiser draws them; seed: of their noise."""
    if "prompt" in condition:
        given = {"prompt": [denoiser.conditioning.prompts[number] for number in condition["prompt"]]}
    elif "class_labels" in condition:
        given = {"class_labels": condition["class_labels"].tolist()}
    else:
        given = {"batch_size": 2}
    drawn = itertools.count()
    for module in (type(pipeline).__module__, type(pipeline.scheduler).__module__):
        if hasattr(sys.modules[module], "randn_tensor"):
            noise = lambda *args, **kwargs: seeded_normal((2, *denoiser.shape), seed, next(drawn))  # noqa: E731
            monkeypatch.setattr(f"{module}.randn_tensor", noise)
    return np.asarray(pipeline(**given, **WORDS.get(kind, {}), **words, output_type="np").images)
