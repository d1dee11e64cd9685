"""Sample from the denoiser that a finished run left behind. Nothing is calibrated, no full precision is needed.

The noise is the evaluation's, so the first samples are those of the run itself, bit for bit.
"""

import logging

from quantlab.methods.base import Outcome, RunContext
from quantlab.methods.denoiser_samples import spectrum_ratio_to_task
from quantlab.methods.generation_evaluator import draw_images, fid_to_task, sampling_protocol
from quantlab.methods.saved_model import OnFinishedRun
from quantlab.report import grids
from quantlab.tasks.base import denormalize

logger = logging.getLogger("quantlab")


class Sample(OnFinishedRun):
    """method=sample. The config holds the other run's task, model and quantizer."""

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        model, quantized = context.model, self.quantized
        self.network = model.network() if quantized is None else model.guide(quantized.network)

    def finish(self) -> Outcome:
        context, count = self.context, self.section.samples
        images = draw_images(context, self.network, count, "sampling")
        grids.sample_grid(images[:256].numpy(), context.directory.samples / "samples.png", columns=16)
        pixels = (denormalize(images) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        path = context.directory.write_samples(pixels)
        logger.info("%d samples: %s (uint8 [N, H, W, C]) and samples.png beside it", count, path)
        distance = fid_to_task(context, context.feature_network())
        metrics = {} if distance is None else {"fid": distance.measure(images)}
        metrics |= spectrum_ratio_to_task(context, images)
        return Outcome(metrics, protocol=sampling_protocol(context, count))
