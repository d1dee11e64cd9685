"""What is measured of sets of images, batch by batch: in memory is one batch, and what a killed run has measured is not
measured again (`run.batch_files`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from quantlab.diffusion.rollout import Conditional
from quantlab.diffusion.trajectories import WalkEnds
from quantlab.errors import RunError
from quantlab.methods.base import RunContext
from quantlab.metrics.fid import Features, FrechetDistance, Known
from quantlab.metrics.spectrum import band_energies
from quantlab.run.batch_files import BatchFiles, batches_of
from quantlab.run.state import tensors_digest
from quantlab.tasks.base import denormalize, normalize

SHOWN = 256  # drawn images that are kept for a picture


class SampleMeasures:
    """Features of images as the task's `evaluation` says, and the metrics that are made of them."""

    def __init__(self, context: RunContext):
        self.context, self.batch_size = context, context.task.evaluation.batch_size
        network = context.feature_network()
        self.features = None if network is None else Features(network, context.device)
        self.facts = {
            "features": network if network is None or isinstance(network, str) else tensors_digest(network.state_dict())
        }
        self.to_task = self._distance_to_task()

    def of_images(self, images: Tensor) -> dict[str, Tensor]:
        """By name, tensors of one row an image; images: float32 [N, C, H, W], nominally in [-1, 1]."""
        return {} if self.features is None else {"features": self.features(images)}

    def distance(self) -> FrechetDistance:
        """Between sets of features that are known, as read from files."""
        return FrechetDistance(Known(self.features.num_features), self.batch_size)

    def metrics(self, files: BatchFiles) -> dict[str, float]:
        """fid to the task's images, if it has any and there are features."""
        return {} if self.to_task is None else {"fid": self.to_task.measure(files.read("features"))}

    def _distance_to_task(self) -> FrechetDistance | None:
        task = self.context.task
        if self.features is None or not task.has_images:
            return None
        files = measured(
            self.context,
            "images of the task",
            self.facts | {"data": task.fingerprint()},
            batches_of(len(task.images()), self.batch_size),
            lambda rows: self.of_images(normalize(task.images()[rows])),
        )
        return self.distance().reference(files.read("features")) if self.context.processes.is_first else None


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
        for rows in context.progress(missing, f"samples: {name}"):
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
        found = measures.of_images(images) | shown(images, rows, SHOWN)
        found["band_energies"] = band_energies(images.clamp(-1, 1)).double() * (len(images) / count)
        if keeps_pixels:
            found["pixels"] = (denormalize(images) * 255).round().byte().permute(0, 2, 3, 1)
        return found

    facts = measures.facts | {"network": tensors_digest(network), "count": count}
    return measured(context, "samples", facts, batches_of(count, measures.batch_size), measure)


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
