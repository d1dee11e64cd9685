"""Evaluation of a diffusion model's samples: against the task's images, and for a quantized model against full
precision.

Both models start from the same noise, so images compare one by one. Full-precision walks are computed once and
cached. Everything is measured batch by batch (`sample_measures`). With task.evaluation.features=none no FID is measured
and no feature network is needed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from quantlab.diffusion.evaluation import compare_walks
from quantlab.diffusion.rollout import Conditional
from quantlab.diffusion.trajectories import DONE, Trajectories, compute_walks
from quantlab.errors import RequestError, RunError
from quantlab.methods.base import RunContext
from quantlab.methods.evaluation_networks import not_measured
from quantlab.methods.sample_measures import SampleMeasures, images_of, measured, prompts_of, require_finite, shown
from quantlab.metrics.paired import PAIRED, paired_protocol, paired_summary, paired_values
from quantlab.models.given import given_model
from quantlab.run.batch_files import BatchFiles, batches_of
from quantlab.run.state import tensors_digest

SHOWN = 64  # images of grids
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
        try:
            require_finite(Trajectories(folder, sampler, condition).images, what)
        except RunError:
            (folder / DONE).unlink(missing_ok=True)  # they are not kept
            raise

    folder = context.cache.fetch_files("trajectories", facts, make, context.processes)
    return Trajectories(folder, sampler, condition)


def require_feature_network(config: Any, task: Any) -> None:
    """Raises RequestError where a method that measures samples has a task without what its `evaluation.features`
    needs: labels and sound weights, if some are named, or a package, or weights that were to be fetched and cannot.
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
    not_measured(task.evaluation)


def sampling_protocol(context: RunContext, measures: SampleMeasures, samples: int) -> dict[str, Any]:
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
        **measures.protocol,
    }
    if measures.features is None:
        del protocol["fid_features"]
    elif evaluation.features in ("clip", "dino"):
        protocol["fid_features"] = getattr(evaluation, evaluation.features).rstrip("/").rpartition("/")[2]
    if not task.has_images or (measures.features is None and not measures.extra.compares_with_task):
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

    Calling it with a label and a `QuantizedDenoiser` returns its metrics: fid (to the task's images), fid_to_fp32, psnr
    (dB), ssim, mse_to_fp32 and mse_to_fp32_median (to the full-precision images from the same noise), and what
    task.evaluation.metrics names; with features=none, those without fid. Of several processes the first one gets them.
    """

    def __init__(self, context: RunContext, group_size: int):
        self.context, self.sampler, self.group_size = context, context.model.sampler, group_size
        evaluation = self.evaluation = context.task.evaluation
        self.measures = SampleMeasures(context)
        total = len(self.sampler)
        points = {max(1, round(total * (k + 1) / FID_POINTS)) for k in range(FID_POINTS)}
        has_fid = self.measures.features is not None
        # Latents have no FID, and decoding them all along is more work than the walk
        self.fid_steps = sorted(points) if has_fid and context.model.decoder is None else []
        measured = min(evaluation.step_error_samples, evaluation.samples)
        kept = [evaluation.samples if i in (0, total, *self.fid_steps) else measured for i in range(total + 1)]
        self.reference = fetch_trajectories(
            context, evaluation.samples, evaluation.seed, kept, "full-precision samples"
        )
        self.files: dict[str, BatchFiles] = {}  # of the evaluated networks, by label
        self.exact = self._measured("full precision", {}, self._of_exact)
        self.fid_to_fp32 = None
        if has_fid and context.processes.is_first:
            self.fid_to_fp32 = self.measures.distance().reference(self.exact.read("features"))
        width = next(self.exact.read("images")).shape[-1]
        self.protocol = sampling_protocol(context, self.measures, evaluation.samples) | paired_protocol(width)
        self.notes = self.measures.notes

    def baseline(self) -> dict[str, dict[str, float]]:
        """`full_precision`: fid of its samples, and the extra metrics of one set. Empty without any."""
        found = self.measures.metrics(self.exact) if self.context.processes.is_first else {}
        return {"full_precision": found} if found else {}

    def __call__(self, label: str, quantized) -> dict[str, float]:
        conditional = self.context.model.guide(quantized.network)
        facts = {"network": tensors_digest(quantized.unet.state_dict())}
        files = self.files[label] = self._measured(label, facts, lambda rows: self._of_walks(label, conditional, rows))
        if not self.context.processes.is_first:
            return {}
        metrics = {}
        if self.fid_to_fp32 is not None:
            metrics["fid_to_fp32"] = self.fid_to_fp32.measure(files.read("features"))
        metrics |= self.measures.metrics(files)
        metrics |= paired_summary({name: files.whole(name) for name in PAIRED})
        lpips = {"lpips"} & {*self.measures.extra.names}
        return metrics | {name: files.whole(name).mean().item() for name in lpips}

    def _measured(self, name: str, facts: dict, measure: Callable[[slice], dict[str, Tensor]]) -> BatchFiles:
        batches = batches_of(self.evaluation.samples, self.evaluation.batch_size)
        if name == "full precision" and self.measures.features is None and not self.measures.extra.names:
            batches = [rows for rows in batches if rows.start < SHOWN]
        facts = self.measures.facts | {"walks": self.reference.folder.parent.name, **facts}
        return measured(self.context, name, facts, batches, measure)

    def _of_exact(self, rows: slice) -> dict[str, Tensor]:
        images = images_of(self.context, self.reference.images[rows], "full precision")
        states = {done: self.reference.state(done, rows).x for done in self.fid_steps}
        found = self.measures.of_images(images, prompts_of(self.context, self.reference.condition, rows))
        return found | self._features_along(states) | shown(images, rows, SHOWN)

    def _of_walks(self, label: str, conditional: Conditional, rows: slice) -> dict[str, Tensor]:
        """All that is measured of a batch of quantized walks."""
        walks = compare_walks(
            conditional, self.reference, rows, self.evaluation.step_error_samples, self.fid_steps, self.context.device
        )
        images = images_of(self.context, walks.images, f"samples: {label}")
        exact = images_of(self.context, self.reference.images[rows], "full precision")
        errors = {"accumulated_error": walks.accumulated_error, "step_error": walks.step_error}
        found = self.measures.of_images(images, prompts_of(self.context, self.reference.condition, rows))
        pairs = paired_values(images, exact) | self.measures.extra.of_pairs(images, exact)
        return errors | found | pairs | self._features_along(walks.states) | shown(images, rows, SHOWN)

    def _features_along(self, states: dict[int, Tensor]) -> dict[str, Tensor]:
        """Those at the end are the images'."""
        along = [done for done in self.fid_steps if done < len(self.sampler)]
        return {f"features_{done}": self.measures.features(states[done]) for done in along}

    def series(self) -> dict:
        """The curves along denoising of every evaluated network, as plain data (figures/denoising.json)."""
        curves: dict[str, dict] = {
            label: {name: sum(files.read(name)).tolist() for name in ("step_error", "accumulated_error")}
            for label, files in self.files.items()
        }
        values: dict[str, list[float]] = {label: [] for label in self.files}
        for done in self.fid_steps:
            name = "features" if done == len(self.sampler) else f"features_{done}"
            distance = self.measures.distance().reference(self.exact.read(name))
            for label, files in self.files.items():
                values[label].append(distance.measure(files.read(name)))
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
        files = list(self.files.values())[-1] if self.files else self.exact
        exact, last = (one.whole("images").numpy() for one in (self.exact, files))
        grids.comparison_grid(exact, last, samples / "comparison.png")
        grids.sample_grid(exact, samples / "full_precision.png")
        grids.sample_grid(last, samples / "quantized.png")
