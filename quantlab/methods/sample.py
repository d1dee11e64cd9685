"""Sample from the denoiser that a finished run left behind. Nothing is calibrated, no full precision is needed.

The noise is the evaluation's, so the first samples are those of the run itself, bit for bit.
"""

import logging

from quantlab.methods.base import Outcome, RunContext
from quantlab.methods.denoiser_samples import spectrum_ratio_to_task
from quantlab.methods.generation_evaluator import sampling_protocol
from quantlab.methods.sample_measures import SampleMeasures, draw_samples
from quantlab.methods.saved_model import OnFinishedRun
from quantlab.models.given import weights_of
from quantlab.report import grids

logger = logging.getLogger("quantlab")


class Sample(OnFinishedRun):
    """method=sample. The config holds the other run's task, model and quantizer."""

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        model, quantized = context.model, self.quantized
        self.network = model.network() if quantized is None else model.guide(quantized.network)
        self.tensors = (weights_of(model) if quantized is None else quantized.unet).state_dict()

    def finish(self) -> Outcome:
        context, count = self.context, self.section.samples
        measures = SampleMeasures(context)
        files = draw_samples(context, measures, self.network, self.tensors, count, keeps_pixels=True)
        grids.sample_grid(files.whole("images").numpy(), context.directory.samples / "samples.png", columns=16)
        path = context.directory.write_samples((part.numpy() for part in files.read("pixels")), count)
        logger.info("%d samples: %s (uint8 [N, H, W, C]) and samples.png beside it", count, path)
        metrics = measures.metrics(files)
        metrics |= spectrum_ratio_to_task(context, sum(files.read("band_energies")).float())
        return Outcome(metrics, protocol=sampling_protocol(context, measures, count), notes=measures.notes)
