"""Sample from a quantized model that a finished run left behind. Nothing is calibrated, no full precision is needed.

The noise is the evaluation's, so the first samples are those of the run itself, bit for bit.
"""

import logging

import numpy as np
import torch

from quantlab.diffusion.rollout import seeded_normal, walk
from quantlab.diffusion.trajectories import step_noise
from quantlab.methods.base import Method, Outcome
from quantlab.methods.diffusion_ptq import QuantizedDenoiser
from quantlab.metrics.fid import FrechetDistance
from quantlab.quantizers.wrap import UniformAffinePolicy
from quantlab.report import grids
from quantlab.tasks.base import denormalize

logger = logging.getLogger("quantlab")


class Sample(Method):
    """method=sample. The runner has put the other run's task, model and quantizer into the config."""

    needs_full_precision = False
    steps = 0
    dataset = ()

    def build(self, total_steps: int) -> None:
        context, task = self.context, self.context.task
        unet, facts = context.model.unet.eval(), context.saved_model.facts
        self.quantized = QuantizedDenoiser(unet, UniformAffinePolicy(context.config.quantizer), len(context.model.schedule), facts["group_size"])
        context.saved_model.load_into(self.quantized.unet)
        self.described = self.quantized.describe(unet, torch.zeros(1, task.channels, task.image_size, task.image_size, device=context.device))

    @torch.no_grad()
    def finish(self) -> Outcome:
        context, task, quantized = self.context, self.context.task, self.quantized
        schedule = context.model.schedule
        count, size = self.section.samples, task.evaluation.batch_size
        shape = (count, task.channels, task.image_size, task.image_size)
        start, noise = seeded_normal(shape, task.evaluation.seed, 0), step_noise(schedule, shape, task.evaluation.seed)
        batches = []
        for first in context.progress(range(0, count, size), "sampling"):
            rows = slice(first, first + size)
            z = None if noise is None else noise[:, rows].to(context.device)
            *_, x = walk(quantized.network, schedule, start[rows].to(context.device), z)
            batches.append(x.cpu())
        images = torch.cat(batches)

        folder = context.directory / "samples"
        folder.mkdir(exist_ok=True)
        grids.sample_grid(images[:256].numpy(), folder / "samples.png", columns=16)
        pixels = (denormalize(images) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        np.save(folder / "samples.npy", pixels)
        logger.info("%d samples: %s (uint8 [N, H, W, C]) and samples.png beside it", count, folder / "samples.npy")
        distance = FrechetDistance(context.feature_network(), size, context.device).reference(task.reference())
        protocol = {"samples": count, "fid_features": task.evaluation.features, "noise_seed": task.evaluation.seed,
                    "reference_images": len(task.images()), "denoising_steps": len(schedule), "eta": schedule.eta}
        return Outcome({"fid": distance.to(images)}, protocol=protocol)
