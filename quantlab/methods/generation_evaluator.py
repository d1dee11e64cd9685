"""Evaluation of a diffusion model's samples: against the task's images, and for a quantized model against full
precision.

Both models start from the same noise, so images compare one by one. Full-precision samples are computed once and
cached. With task.evaluation.features=none no FID is measured and no feature network is needed.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from quantlab.diffusion.evaluation import WalkComparison, compare_walks
from quantlab.diffusion.rollout import Conditional
from quantlab.diffusion.trajectories import Trajectories, compute_images, compute_walks
from quantlab.errors import RequestError, RunError
from quantlab.methods.base import RunContext
from quantlab.metrics.fid import FrechetDistance
from quantlab.metrics.paired import paired_metrics, paired_protocol
from quantlab.models.given import given_model

FID_POINTS = 8  # points along denoising at which fid_to_fp32 is measured for the figure


def fetch_trajectories(context: RunContext, count: int, seed: int, kept: Sequence[int], what: str) -> Trajectories:
    """`count` full-precision walks from noise of `seed`, from the cache or computed now; kept: as in `compute_walks`.

    The cache key is the model, its sampler, the seed, and `kept`.
    """
    model = context.model
    model.prepare(context.cache, context.device)
    sampler, condition, shape = model.sampler, model.condition(count, seed), (count, *model.shape)
    facts = {
        "format": 3,
        "model": model.fingerprint(),
        "shape": shape,
        "seed": seed,
        "sampler": type(sampler).__module__,
        "walk": dataclasses.asdict(sampler),
        "conditioning": None if model.conditioning is None else model.conditioning.facts(),
        "kept": list(kept),
    }

    def make(folder: Path) -> None:
        compute_walks(
            folder,
            model.network(),
            sampler,
            condition,
            shape,
            seed,
            kept,
            context.task.evaluation.batch_size,
            lambda batches: context.progress(batches, what),
            context.device,
            context.processes,
        )
        require_finite(Trajectories(folder, sampler, condition).images, what)  # else they are not kept

    folder = context.cache.fetch_files("trajectories", facts, make, context.processes)
    return Trajectories(folder, sampler, condition)


def require_feature_network(config: Any, task: Any) -> None:
    """Raises RequestError where a method that measures samples has a task without what its `evaluation.features`
    needs: labels and sound weights, if some are named, or Inception's weights, which are downloaded.
    """
    if not (config.method.judges_samples and config.model.kind == "denoiser"):
        return
    features = task.evaluation.features
    if features == "task_classifier" and task.classes is None:
        raise RequestError(
            f"task.evaluation.features: got task_classifier, but task={task.name} has no labels to train one on,"
            " allowed: none (everything but FID), inception, or a sub-folder of images per class; type"
            " task.evaluation.features=none"
        )
    if features == "task_classifier":
        given_model(config.task.feature_network, task, "task.feature_network")
    if features == "inception":
        FrechetDistance("inception")


def fid_to_task(context: RunContext, features: Any) -> FrechetDistance | None:
    """The Frechet distance to the task's images; features: `context.feature_network()`. None without either."""
    if features is None or not context.task.has_images:
        return None
    return FrechetDistance(features, context.task.evaluation.batch_size, context.device).reference(
        context.task.reference()
    )


def draw_images(context: RunContext, conditional: Conditional, count: int, what: str) -> Tensor:
    """`count` images, float32 [N, C, H, W], sampled with a network (guidance included) from the evaluation's noise."""
    model, evaluation = context.model, context.task.evaluation
    model.prepare(context.cache, context.device)
    ends = compute_images(
        conditional,
        model.sampler,
        model.condition(count, evaluation.seed),
        (count, *model.shape),
        evaluation.seed,
        evaluation.batch_size,
        lambda batches: context.progress(batches, what),
        context.device,
    )
    require_finite(ends, what)
    return decoded(context, ends, what)


def decoded(context: RunContext, ends: Tensor, what: str) -> Tensor:
    """The images, float32 [N, C, H, W], that the ends of walks [N, ...] stand for."""
    return context.model.images(ends, context.device, lambda batches: context.progress(batches, f"decoding: {what}"))


def require_finite(images: Tensor, what: str) -> None:
    """Raises RunError where walks end in NaN or infinity: nothing can be measured on them."""
    if bad := int((~images.isfinite()).flatten(1).any(1).sum()):
        raise RunError(
            f"{what}: {bad} of {len(images)} walks end in NaN or infinity, although the losses and weights of all steps"
            " were finite; lower the learning rate, or give other weights or bits, and start again"
        )


def sampling_protocol(context: RunContext, samples: int) -> dict[str, Any]:
    """The protocol of metrics on that many samples."""
    task, sampler = context.task, context.model.sampler
    evaluation = task.evaluation
    protocol = {
        "samples": samples,
        "fid_features": evaluation.features,
        "noise_seed": evaluation.seed,
        "reference_images": len(task.images()) if task.has_images else 0,
        "denoising_steps": len(sampler),
        **walk_protocol(context),
    }
    if evaluation.features == "none":
        del protocol["fid_features"]
    if evaluation.features == "none" or not task.has_images:
        del protocol["reference_images"]
    return protocol


def walk_protocol(context: RunContext) -> dict[str, Any]:
    """The part of the protocol that describes how samples were drawn."""
    sampler, conditioning = context.model.sampler, context.model.conditioning
    name = type(sampler).__module__.rpartition(".")[2]
    protocol = {"eta": sampler.eta} if name == "ddim" else {"sampler": name}
    return protocol if conditioning is None else protocol | {"guidance_scale": conditioning.guidance.scale}


class GenerationEvaluator:
    """Evaluates networks on one task, and keeps their walks for the figures.

    Calling it with a label and a quantized network (guidance included) returns its metrics: fid (to the task's images),
    fid_to_fp32, psnr (dB), ssim and mse_to_fp32 (to the full-precision images from the same noise); with features=none,
    those without fid.
    """

    def __init__(self, context: RunContext, group_size: int):
        self.context, self.sampler, self.group_size = context, context.model.sampler, group_size
        evaluation = context.task.evaluation
        self.evaluation = evaluation
        features = context.feature_network()
        self.fid = None if features is None else FrechetDistance(features, evaluation.batch_size, context.device)
        self.fid_to_task = fid_to_task(context, features)
        total = len(self.sampler)
        points = {max(1, round(total * (k + 1) / FID_POINTS)) for k in range(FID_POINTS)}
        # Latents have no FID, and decoding them all along is more work than the walk
        self.fid_steps = [] if self.fid is None or context.model.decoder is not None else sorted(points)
        measured = min(evaluation.step_error_samples, evaluation.samples)
        kept = [evaluation.samples if i in (0, total, *self.fid_steps) else measured for i in range(total + 1)]
        self.reference = fetch_trajectories(
            context, evaluation.samples, evaluation.seed, kept, "full-precision samples"
        )
        ends = self.reference.images
        self.exact = decoded(context, ends, "full precision") if context.processes.is_first else ends
        self.walks: dict[str, WalkComparison] = {}
        self.images = self.exact  # of the network evaluated last
        self.protocol = sampling_protocol(context, evaluation.samples) | paired_protocol(self.exact.shape[-1])

    def baseline(self) -> dict[str, dict[str, float]]:
        """`full_precision`: the fid of its samples. Empty with features=none."""
        if self.fid_to_task is None or not self.context.processes.is_first:
            return {}
        return {"full_precision": {"fid": self.fid_to_task.measure(self.exact)}}

    def __call__(self, label: str, conditional: Conditional) -> dict[str, float]:
        def progress(batches):
            return self.context.progress(batches, f"samples: {label}")

        walk = compare_walks(
            conditional,
            self.reference,
            self.evaluation.batch_size,
            self.evaluation.step_error_samples,
            self.fid_steps,
            progress,
            self.context.device,
            self.context.processes,
        )
        require_finite(walk.images, f"samples: {label}")
        self.walks[label] = walk
        if not self.context.processes.is_first:
            return {}  # the walks are divided; the first process measures
        self.images = decoded(self.context, walk.images, label)
        metrics = {}
        if self.fid is not None:
            metrics["fid_to_fp32"] = self.fid.reference(self.exact).measure(self.images)
        if self.fid_to_task is not None:
            metrics["fid"] = self.fid_to_task.measure(self.images)
        return metrics | paired_metrics(self.images, self.exact)

    def series(self) -> dict:
        """The curves along denoising of every evaluated network, as plain data (figures/denoising.json)."""
        values = {label: [] for label in self.walks}
        for done in self.fid_steps:
            self.fid.reference(self.reference.state(done).x)
            for label, walk in self.walks.items():
                values[label].append(self.fid.measure(walk.states[done]))
        curves = {
            label: {"step_error": walk.step_error, "accumulated_error": walk.accumulated_error}
            for label, walk in self.walks.items()
        }
        if self.fid_steps:
            for label, curve in curves.items():
                curve["fid_to_fp32"] = {"step": self.fid_steps, "value": values[label]}
        return {"timesteps": list(self.sampler.timesteps), "group_size": self.group_size, "curves": curves}

    def draw(self) -> None:
        """Write figures/denoising.json, its plots, and the sample grids of the network evaluated last."""
        from quantlab.report import figures, grids

        if not self.context.processes.is_first:
            return
        directory, series = self.context.directory, self.series()
        directory.write_denoising(series)
        figures.denoising_error(series, directory.figures / "denoising_error.png")
        if self.fid_steps:
            figures.fid_along_denoising(series, directory.figures / "fid_along_denoising.png")
        self._grids(grids, directory.samples)

    def _grids(self, grids, samples: Path) -> None:
        exact, last = self.exact.numpy(), self.images.numpy()
        grids.comparison_grid(exact, last, samples / "comparison.png")
        grids.sample_grid(exact[:64], samples / "full_precision.png")
        grids.sample_grid(last[:64], samples / "quantized.png")
