"""What a finished post-training method reports: its network, evaluated beside those that it started from."""

from typing import TYPE_CHECKING

from quantlab.diffusion.bias_correction import output_biases
from quantlab.methods.base import Outcome
from quantlab.methods.generation_evaluator import GenerationEvaluator
from quantlab.models.model_file import tensors_of

if TYPE_CHECKING:
    from quantlab.methods.ptq.method import DiffusionPTQ


def evaluated(method: "DiffusionPTQ", diagnostics: dict[str, float]) -> Outcome:
    """Metrics, pictures and the model of `method`, whose rounding is fixed; the bias correction that it asks for is
    made here, and beside its numbers stand those of the calibrated ranges and of the network without the correction.
    """
    context, section, quantized = method.context, method.section, method.quantized
    evaluator = GenerationEvaluator(context, section.group_size)
    context.model.release()  # its walks are there
    baseline = evaluator.baseline()
    if method.label != "ranges only":
        baseline["ranges_only"] = evaluator("ranges only", method.ranges_only)
    del method.ranges_only
    if section.bias_correction != "none":
        baseline["uncorrected"] = evaluator("uncorrected", quantized)
        # As the search of ranges, not counted among the network evaluations: it learns nothing.
        biases = output_biases(
            context.model.guide(quantized.network),
            method.dataset.trajectories,
            method.groups,
            section.bias_correction,
            context.task.evaluation.batch_size,
            lambda groups: context.progress(groups, "bias correction"),
            context.device,
        )
        quantized.correct_output(biases)
    metrics = evaluator(method.label, quantized)
    evaluator.draw()
    return Outcome(
        metrics,
        baseline,
        evaluator.protocol,
        diagnostics,
        {"network_evaluations": round(method.network_evaluations)},
        notes=evaluator.notes,
        model=tensors_of(quantized.unet),
        network=quantized.unet,
        model_facts={
            "timesteps": [t * context.model.time_scale for t in method.sampler.timesteps],
            "group_size": section.group_size,
            "full_precision_sha256": context.model.fingerprint(),
            "bias_steps": list(quantized.bias_rows),
        },
        phases={start: phase.objective.words for start, phase in zip(method.phase_starts, method.phases)}
        if len(method.phases) > 1
        else {},
    )
