"""Sample from the denoiser that a finished run left behind. Nothing is calibrated, no full precision is needed.

The noise is the evaluation's, so the first samples are those of the run itself, bit for bit.
"""

import logging
from pathlib import Path

import numpy as np

from quantlab.methods.base import Method, Outcome, RunContext
from quantlab.methods.denoiser_samples import spectrum_ratio_to_task
from quantlab.methods.generation_evaluator import draw_images, fid_to_task, sampling_protocol
from quantlab.methods.saved_model import restore
from quantlab.report import grids
from quantlab.report.layers import read_layers
from quantlab.tasks.base import denormalize

logger = logging.getLogger("quantlab")


class Sample(Method):
    """method=sample. The config holds the other run's task, model and quantizer."""

    needs_full_precision = False
    steps = 0
    dataset = ()

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        self.described = read_layers(Path(section.run))
        quantized = restore(context)
        self.network = context.model.network() if quantized is None else context.model.guide(quantized.network)

    def finish(self) -> Outcome:
        context, count = self.context, self.section.samples
        images = draw_images(context, self.network, count, "sampling")
        folder = context.directory / "samples"
        folder.mkdir(exist_ok=True)
        grids.sample_grid(images[:256].numpy(), folder / "samples.png", columns=16)
        pixels = (denormalize(images) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        np.save(folder / "samples.npy", pixels)
        logger.info("%d samples: %s (uint8 [N, H, W, C]) and samples.png beside it", count, folder / "samples.npy")
        distance = fid_to_task(context, context.feature_network())
        metrics = {} if distance is None else {"fid": distance.measure(images)}
        metrics["spectrum_ratio"] = spectrum_ratio_to_task(context, images)
        return Outcome(metrics, protocol=sampling_protocol(context, count))
