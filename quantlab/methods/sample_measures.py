"""What is measured of sets of images, batch by batch: in memory is one batch, and what a killed run has measured is not
measured again (`run.batch_files`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from quantlab.diffusion.conditioning import Condition
from quantlab.diffusion.rollout import Conditional
from quantlab.diffusion.trajectories import WalkEnds
from quantlab.errors import RunError
from quantlab.methods.base import RunContext
from quantlab.methods.evaluation_networks import KINDS, not_measured
from quantlab.methods.extra_metrics import ExtraMetrics
from quantlab.metrics.fid import Features, FrechetDistance, Known
from quantlab.metrics.spectrum import band_energies
from quantlab.run.batch_files import BatchFiles, batches_of
from quantlab.run.state import tensors_digest
from quantlab.tasks.base import denormalize, normalize

SHOWN = 256  # drawn images that are kept for a picture


class SampleMeasures:
    """What the task's `evaluation` asks of images: features of networks, and metrics that are made of them.

    notes: what is not measured, and why; protocol: of what is measured here beside FID.
    """

    def __init__(self, context: RunContext):
        evaluation = context.task.evaluation
        self.context, self.batch_size = context, evaluation.batch_size
        network = context.feature_network()
        self.features = None if network is None else Features(network, context.device)
        self.extra = ExtraMetrics(context, network)
        self.protocol = self.extra.protocol
        is_own = network is not None and evaluation.features not in KINDS
        own = tensors_digest(network.state_dict()) if is_own else evaluation.features
        self.facts = {"features": own, "extra": self.extra.facts}
        self._measure_task()
        self.notes = [*not_measured(evaluation), *self.extra.notes]

    def of_images(self, images: Tensor, texts: Sequence[str] | None = None) -> dict[str, Tensor]:
        """By name, tensors of one row an image; images: float32 [N, C, H, W], nominally in [-1, 1], on the CPU; texts:
        their prompts, if any.
        """
        found = self.extra.of_images(images, texts)
        if self.features is not None and not self.extra.gives_features:
            found["features"] = self.features(images)
        return found

    def distance(self) -> FrechetDistance:
        """Between sets of features that are known, as read from files."""
        return FrechetDistance(Known(self.features.num_features), self.batch_size)

    def metrics(self, files: BatchFiles) -> dict[str, float]:
        """fid to the task's images, if it has any and there are features; and the extra metrics."""
        found = {} if self.to_task is None else {"fid": self.to_task.measure(files.read("features"))}
        return found | self.extra.metrics(files)

    def _measure_task(self) -> None:
        task, self.to_task = self.context.task, None
        if not task.has_images or (self.features is None and not self.extra.compares_with_task):
            return
        files = measured(
            self.context,
            "images of the task",
            self.facts | {"data": task.fingerprint()},
            batches_of(len(task.images()), self.batch_size),
            lambda rows: self.of_images(normalize(task.images()[rows])),
        )
        if self.context.processes.is_first:
            if self.features is not None:
                self.to_task = self.distance().reference(files.read("features"))
            self.extra.compare_with(files)


def measured(
    context: RunContext,
    name: str,
    facts: Mapping[str, Any],
    batches: Sequence[slice],
    measure: Callable[[slice], Mapping[str, Tensor]],
) -> BatchFiles:
    """The tensors of each of `batches`, measured by the processes of the run together unless they are there."""
    facts = {"format": 1, "device": str(context.device), **facts}
    files = BatchFiles(context.directory.evaluation, name, facts, batches)
    missing = [rows for rows in context.processes.share(batches) if not files.holds(rows)]
    with context.model.decoding():
        for rows in context.progress(missing, f"evaluation: {name}"):
            files.save(rows, measure(rows))
    context.processes.wait()
    return files


def draw_samples(
    context: RunContext,
    measures: SampleMeasures,
    conditional: Conditional,
    network: Mapping[str, Tensor],
    count: int,
    keeps_pixels: bool = False,
) -> BatchFiles:
    """`count` images sampled with a network (guidance included) from the evaluation's noise: beside what `measures`
    says of them `band_energies`, those of the batch weighted by its share, the first 256 `images`, and, if asked for,
    `pixels`, uint8 [n, H, W, C]. network: its tensors.
    """
    ends = walk_ends(context, conditional, count)

    def measure(rows: slice) -> dict[str, Tensor]:
        images = images_of(context, ends[rows], "samples")
        found = measures.of_images(images, prompts_of(context, ends.condition, rows)) | shown(images, rows, SHOWN)
        found["band_energies"] = band_energies(images.clamp(-1, 1)).double() * (len(images) / count)
        if keeps_pixels:
            found["pixels"] = (denormalize(images) * 255).round().byte().permute(0, 2, 3, 1)
        return found

    facts = measures.facts | {"network": tensors_digest(network), "count": count}
    return measured(context, "samples", facts, batches_of(count, measures.batch_size), measure)


def prompts_of(context: RunContext, condition: Condition, rows: slice) -> list[str] | None:
    """Of the walks `rows` of those with that condition; None for a model without prompts."""
    if "prompt" not in condition:
        return None
    return [context.model.conditioning.prompts[number] for number in condition["prompt"][rows].tolist()]


def walk_ends(context: RunContext, conditional: Conditional, count: int) -> WalkEnds:
    """The ends of `count` walks of a network (guidance included) from the evaluation's noise."""
    model, seed = context.model, context.task.evaluation.seed
    model.prepare(context.cache, context.device)
    shape = (count, *model.shape)
    return WalkEnds(conditional, model.sampler, model.condition(count, seed), shape, seed, context.device)


def shown(images: Tensor, rows: slice, count: int) -> dict[str, Tensor]:
    """Of a batch of images, the rows `rows` of their set, those that pictures of its first `count` show, if any."""
    return {"images": images[: count - rows.start].clone()} if rows.start < count else {}


def images_of(context: RunContext, ends: Tensor, what: str) -> Tensor:
    """The images, float32 [N, C, H, W] on the CPU, that the ends of walks [N, ...] stand for. Raises RunError where
    some are not finite.
    """
    require_finite(ends, what)
    return context.model.images(ends, context.device)


def require_finite(images: Tensor, what: str) -> None:
    """Raises RunError where walks end in NaN or infinity: nothing can be measured on them."""
    if bad := int(sum((~part.isfinite()).flatten(1).any(1).sum() for part in images.split(1024))):
        raise RunError(
            f"{what}: {bad} of {len(images)} walks end in NaN or infinity, although the losses and weights of all steps"
            " were finite; lower the learning rate, or give other weights or bits, and start again"
        )
