"""A look at what a full-precision denoiser draws: a grid beside the task's images, and a warning where the two are far
apart.

Nobody should quantize a network that draws noise, and the loss does not tell. The distance is `metrics.spectrum`'s, of
64 samples or more to 512 of the task's images. That samples are far from a factor of 1.5 on is our choice. Measured on
digits, where 64 other images are at 1.04 to 1.09: 1 step of training 6.8, 30 steps 3.3, 100 steps 2.3, 300 steps (most
digits legible) 1.25, the recipe's 1000 steps 1.19; on MNIST at 16x16 (others at 1.03 to 1.08): 1 step 23, 100 steps 11,
300 steps 7.1, 1000 steps (a third of the samples still noisy) 3.0.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.methods.base import RunContext, seeded
from quantlab.methods.generation_evaluator import walk_protocol
from quantlab.methods.sample_measures import images_of, walk_ends
from quantlab.metrics.spectrum import band_energies, ratio_of_energies
from quantlab.report import grids
from quantlab.run.batch_files import batches_of
from quantlab.tasks.base import normalize

DRAWN = 64
COMPARED = 512  # images of the task
FAR = 1.5
COLUMNS = 16

logger = logging.getLogger("quantlab")


def task_images(context: RunContext, count: int = COMPARED) -> Tensor:
    """At most `count` of the task's images, always the same, float32 [N, C, H, W] in [-1, 1]."""
    images = context.task.images()
    return normalize(images[torch.from_numpy(seeded(0).permutation(len(images))[:count])])


def spectrum_ratio_to_task(context: RunContext, energies: Tensor) -> dict[str, float]:
    """The metric `spectrum_ratio` of samples, whose band energies are given, to the task's images, if it has any."""
    if not context.task.has_images:
        return {}
    return {"spectrum_ratio": ratio_of_energies(energies, task_images(context))}


def draw_beside_task(context: RunContext, samples: Tensor, picture: Path) -> None:
    """64 of the task's images, if it has any, and under them as many of `samples`, as a PNG."""
    rows = {context.task.name: task_images(context, DRAWN).numpy()} if context.task.has_images else {}
    rows["samples"] = samples[:DRAWN].nan_to_num().numpy()
    grids.labelled_rows(rows, picture, columns=COLUMNS)


def look_at(context: RunContext, samples: Tensor, picture: Path) -> dict[str, float]:
    """The spectrum ratio of full-precision samples to the task's images; `picture` shows both, and a warning names it
    where they are far apart.
    """
    config, found = context.config, spectrum_ratio_to_task(context, band_energies(samples.clamp(-1, 1)))
    draw_beside_task(context, samples, picture)
    ratio, recipe = found.get("spectrum_ratio", 0), getattr(config.model, "pretrain", None)
    if not ratio <= FAR:  # or NaN
        logger.warning(
            "full-precision samples of model=%s are far from the images of task=%s: the energies of their spatial"
            " frequencies differ %.3g-fold (near: up to %g-fold; both are in %s); %sgive weights and a sampler that"
            " fit",
            config.model.name,
            config.task.name,
            ratio,
            FAR,
            picture,
            f"train longer than model.pretrain.steps={recipe.steps}, or " if recipe is not None else "",
        )
    return found


def measure_full_precision(context: RunContext) -> tuple[dict[str, float], dict[str, Any]]:
    """Look at 64 samples of `context.model`, in samples/samples.png: the metric `spectrum_ratio`, where the task has
    images, and its protocol.
    """
    ends, size = walk_ends(context, context.model.network(), DRAWN), context.task.evaluation.batch_size
    drawn = [ends[rows] for rows in context.progress(batches_of(DRAWN, size), "samples")]
    samples = images_of(context, torch.cat(drawn), "samples")
    metrics = look_at(context, samples, context.directory.samples / "samples.png")
    protocol = {
        "spectrum_samples": DRAWN,
        "noise_seed": context.task.evaluation.seed,
        "denoising_steps": len(context.model.sampler),
        **walk_protocol(context),
    }
    return metrics, protocol
