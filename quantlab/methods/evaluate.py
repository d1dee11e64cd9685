"""method=evaluate: the metrics of a model as it is, or of what a finished run left behind. Nothing is trained or
calibrated.

A finished run gets the numbers that it reported, bit for bit, where device, batch size and data are the same. A
quantized denoiser is compared with the full-precision weights that it was made of where they are at hand, in the cache
or in model.weights; else it has only its fid.
"""

import logging

from torch import Tensor

from quantlab.diffusion.rollout import Conditional
from quantlab.errors import RequestError
from quantlab.methods.base import Outcome, RunContext
from quantlab.methods.denoiser_samples import draw_beside_task, spectrum_ratio_to_task
from quantlab.methods.generation_evaluator import GenerationEvaluator, sampling_protocol
from quantlab.methods.pretrain import Pretrain
from quantlab.methods.sample_measures import SampleMeasures, draw_samples
from quantlab.methods.saved_model import OnFinishedRun
from quantlab.models.given import weights_of
from quantlab.report.metrics import format_bits
from quantlab.run.batch_files import BatchFiles

logger = logging.getLogger("quantlab")


class Evaluate(OnFinishedRun):
    """method=evaluate. With method.run, the config holds that run's task, model and quantizer."""

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        if self.saved is not None:
            self.is_comparable = self.quantized is not None and self._has_its_full_precision()
        elif not context.full_precision_at_hand():
            task, model = context.config.task.name, context.config.model.name
            raise RequestError(
                f"model={model}: an untrained model, for which task={task} has no weights in cache_dir either; type"
                f" quantlab method=pretrain task={task} model={model} first (with the same settings), or"
                " model.weights=FILE, or method.run=DIR"
            )

    def finish(self) -> Outcome:
        context, part = self.context, self.section.part
        if context.config.model.kind == "denoiser":
            return self._full_precision_denoiser() if self.quantized is None else self._quantized_denoiser()
        task, model = context.task, context.model
        if not hasattr(task, "evaluate"):  # a classifier of a generation task's labels
            metrics, protocol = Pretrain(None, context).measure()
            return Outcome(metrics, protocol=protocol)
        metrics = task.evaluate(model, part, context.device, context.progress)
        bits = {name: getattr(context.config.quantizer, name).bits for name in ("weight", "activation", "gradient")}
        label = "full precision" if set(bits.values()) == {32} else format_bits(bits)
        if part != "test":
            return Outcome(metrics, protocol=task.protocol() | {"part": part})
        task.draw({label: model}, context.directory.samples, context.device)
        return Outcome(metrics, baseline=task.baseline(context.device), protocol=task.protocol())

    def _full_precision_denoiser(self) -> Outcome:
        """fid of its samples, the loss on the images that method=pretrain holds out, and what else that method
        measures.
        """
        context = self.context
        metrics, protocol = Pretrain(None, context).measure()
        measures = SampleMeasures(context)
        if measures.features is not None or measures.extra.names:
            network = weights_of(context.model).state_dict()
            metrics |= measures.metrics(self._samples(measures, context.model.network(), network))
            protocol |= self._protocol(measures)
        return Outcome(metrics, protocol=protocol, notes=measures.notes)

    def _quantized_denoiser(self) -> Outcome:
        context = self.context
        if self.is_comparable:
            evaluator = GenerationEvaluator(context, self.quantized.group_size)
            metrics = evaluator("quantized", self.quantized)
            evaluator.draw()
            return Outcome(metrics, evaluator.baseline(), evaluator.protocol, notes=evaluator.notes)
        logger.warning(
            "the full-precision weights that this model was quantized from are not at hand (in cache_dir, or as "
            "model.weights=FILE): numbers that compare with them are left out"
        )
        measures, network = SampleMeasures(context), context.model.guide(self.quantized.network)
        files = self._samples(measures, network, self.quantized.unet.state_dict())
        draw_beside_task(context, files.whole("images"), context.directory.samples / "samples.png")
        metrics = spectrum_ratio_to_task(context, sum(files.read("band_energies")).float())
        metrics |= measures.metrics(files)
        return Outcome(metrics, protocol=self._protocol(measures), notes=measures.notes)

    def _samples(self, measures: SampleMeasures, conditional: Conditional, network: dict[str, Tensor]) -> BatchFiles:
        return draw_samples(self.context, measures, conditional, network, self.context.task.evaluation.samples)

    def _protocol(self, measures: SampleMeasures) -> dict:
        return sampling_protocol(self.context, measures, self.context.task.evaluation.samples)

    def _has_its_full_precision(self) -> bool:
        if not self.context.full_precision_at_hand():
            return False
        return self.saved.facts.get("full_precision_sha256") == self.context.model.fingerprint()
