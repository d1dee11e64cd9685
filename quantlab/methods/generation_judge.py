"""How the samples of a diffusion model are judged: against the task's images, and a quantized one's against full precision.

Both models start from the same noise, so images compare one by one. Everything full-precision is computed once and cached.
With task.evaluation.features=none no FID is measured, and no feature network is asked for.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from quantlab.diffusion.evaluation import WalkComparison, compare_walks
from quantlab.diffusion.rollout import Network, Schedule
from quantlab.diffusion.trajectories import Trajectories, compute_images, compute_states, step_noise
from quantlab.errors import RequestError
from quantlab.methods.base import RunContext
from quantlab.metrics.fid import FrechetDistance
from quantlab.metrics.paired import paired_metrics, paired_protocol
from quantlab.models.diffusers_denoiser import network_of

FID_POINTS = 8      # points along denoising at which fid_to_fp32 is measured for the figure


def fetch_trajectories(context: RunContext, count: int, seed: int, what: str) -> Trajectories:
    """`count` full-precision walks from noise of `seed`, from the cache or computed now.

    Keyed by the model, its schedule, the seed and the count.
    """
    model, task = context.model, context.task
    schedule = model.schedule
    shape = (count, task.channels, task.image_size, task.image_size)
    facts = {
        "format": 2, "model": model.fingerprint(), "shape": shape, "seed": seed,
        "timesteps": schedule.timesteps, "alphas": schedule.alphas, "eta": schedule.eta, "clip": schedule.clip_sample,
    }

    def make() -> dict[str, Tensor]:
        def progress(batches):
            return context.progress(batches, what)
        states = compute_states(network_of(model.unet), schedule, shape, seed, task.evaluation.batch_size, progress,
                                context.device)
        return {"states": states}

    states = context.cache.fetch("trajectories", facts, make)["states"]
    return Trajectories(states, step_noise(schedule, shape, seed))


def require_feature_network(task: Any) -> None:
    """Raises RequestError where `task` has not what its `evaluation.features` needs: labels, or Inception's weights, which are fetched."""
    features = task.evaluation.features
    if features == "task_classifier" and task.classes is None:
        raise RequestError(f"task.evaluation.features: got task_classifier, but task={task.name} has no labels to train one on, allowed: "
                           "none (everything but FID), inception, or a sub-folder of images per class; type task.evaluation.features=none")
    if features == "inception":
        FrechetDistance("inception")


def fid_to_task(context: RunContext, features: Any) -> FrechetDistance | None:
    """The Frechet distance to the task's images; features: `context.feature_network()`, None where no FID is measured."""
    if features is None:
        return None
    return FrechetDistance(features, context.task.evaluation.batch_size, context.device).reference(context.task.reference())


def draw_images(context: RunContext, network: Network, count: int, what: str) -> Tensor:
    """`count` images float32 [N, C, H, W] that `network` walks to from the evaluation's noise."""
    task = context.task
    shape = (count, task.channels, task.image_size, task.image_size)
    return compute_images(network, context.model.schedule, shape, task.evaluation.seed, task.evaluation.batch_size,
                          lambda batches: context.progress(batches, what), context.device)


def sampling_protocol(task: Any, schedule: Schedule, samples: int) -> dict[str, Any]:
    """What numbers of `samples` samples depend on."""
    evaluation = task.evaluation
    protocol = {"samples": samples, "fid_features": evaluation.features, "noise_seed": evaluation.seed,
                "reference_images": len(task.images()), "denoising_steps": len(schedule), "eta": schedule.eta}
    if evaluation.features == "none":
        del protocol["fid_features"], protocol["reference_images"]
    return protocol


class GenerationJudge:
    """Judges networks on one task, and remembers their walks for the pictures.

    Calling it with a label and a quantized network returns its metrics: fid (to the task's images), fid_to_fp32, psnr (dB),
    ssim and mse_to_fp32 (to the full-precision images from the same noise); with features=none, those without fid.
    """

    def __init__(self, context: RunContext, schedule: Schedule, group_size: int):
        self.context, self.schedule, self.group_size = context, schedule, group_size
        evaluation = context.task.evaluation
        self.evaluation = evaluation
        self.reference = fetch_trajectories(context, evaluation.samples, evaluation.seed, "full-precision samples")
        features = context.feature_network()
        self.fid = None if features is None else FrechetDistance(features, evaluation.batch_size, context.device)
        self.fid_to_task = fid_to_task(context, features)
        total = len(schedule)
        points = {max(1, round(total * (k + 1) / FID_POINTS)) for k in range(FID_POINTS)}
        self.fid_steps = [] if self.fid is None else sorted(points)
        self.walks: dict[str, WalkComparison] = {}
        self.protocol = sampling_protocol(context.task, schedule, evaluation.samples) | paired_protocol(context.task.image_size)

    def baseline(self) -> dict[str, dict[str, float]]:
        """`full_precision`: the fid of its samples. Empty with features=none."""
        return {} if self.fid_to_task is None else {"full_precision": {"fid": self.fid_to_task.to(self.reference.images)}}

    def __call__(self, label: str, network: Network) -> dict[str, float]:
        def progress(batches):
            return self.context.progress(batches, f"samples: {label}")
        walk = compare_walks(network, self.schedule, self.reference, self.evaluation.batch_size,
                             self.evaluation.step_error_samples, self.fid_steps, progress, self.context.device)
        self.walks[label] = walk
        paired = paired_metrics(walk.images, self.reference.images)
        if self.fid is None:
            return paired
        fid_to_fp32 = self.fid.reference(self.reference.images).to(walk.images)
        return {"fid_to_fp32": fid_to_fp32, "fid": self.fid_to_task.to(walk.images), **paired}

    def series(self) -> dict:
        """The curves along denoising of every network judged, as plain data (figures/denoising.json)."""
        values = {label: [] for label in self.walks}
        for done in self.fid_steps:
            self.fid.reference(self.reference.states[done])
            for label, walk in self.walks.items():
                values[label].append(self.fid.to(walk.states[done]))
        curves = {label: {"step_error": walk.step_error, "accumulated_error": walk.accumulated_error} for label, walk in self.walks.items()}
        if self.fid is not None:
            for label, curve in curves.items():
                curve["fid_to_fp32"] = {"step": self.fid_steps, "value": values[label]}
        return {"timesteps": list(self.schedule.timesteps), "group_size": self.group_size, "curves": curves}

    def draw(self) -> None:
        """Write figures/denoising.json, the plots of it, and the grids of samples, for the network judged last."""
        from quantlab.report import figures, grids

        folder, samples = self.context.directory / "figures", self.context.directory / "samples"
        folder.mkdir(exist_ok=True), samples.mkdir(exist_ok=True)
        series = self.series()
        (folder / "denoising.json").write_text(json.dumps(series, indent=1))
        figures.denoising_error(series, folder / "denoising_error.png")
        if self.fid is not None:
            figures.fid_along_denoising(series, folder / "fid_along_denoising.png")
        self._grids(grids, samples)

    def _grids(self, grids, samples: Path) -> None:
        exact = self.reference.images.numpy()
        *_, last = self.walks.values()
        grids.comparison_grid(exact, last.images.numpy(), samples / "comparison.png")
        grids.sample_grid(exact[:64], samples / "full_precision.png")
        grids.sample_grid(last.images.numpy()[:64], samples / "quantized.png")
