"""The networks that metrics of images need, each built of weights on disk. What lacks its weights is not measured, and
that is said before any work; what cannot be measured at all is refused.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from quantlab.errors import RequestError
from quantlab.metrics import image_encoders, inception, lpips
from quantlab.metrics.weights import WeightsAbsent, hub_file, model_folder
from quantlab.optional import require

logger = logging.getLogger("quantlab")


class Kind(NamedTuple):
    """locate(evaluation section) -> its weights, raises WeightsAbsent and RequestError; build(section, weights)."""

    locate: Callable[[Any], Path]
    build: Callable[[Any, Path], nn.Module]


def _encoder(key: str, given: str, model_type: str, download: bool) -> Path:
    require("transformers", "metrics", key)
    return model_folder(key, given, model_type, download)


KINDS = {
    "inception": Kind(
        lambda evaluation: hub_file(inception.weights_url(), evaluation.download),
        lambda evaluation, file: inception.Inception(file),
    ),
    "lpips": Kind(
        lambda evaluation: hub_file(lpips.weights_url(evaluation.lpips_network), evaluation.download),
        lambda evaluation, file: lpips.Lpips(evaluation.lpips_network, file),
    ),
    "clip": Kind(
        lambda evaluation: _encoder("task.evaluation.clip", evaluation.clip, "clip", evaluation.download),
        lambda evaluation, folder: image_encoders.Clip(folder),
    ),
    "dino": Kind(
        lambda evaluation: _encoder("task.evaluation.dino", evaluation.dino, "dinov2", evaluation.download),
        lambda evaluation, folder: image_encoders.Dino(folder),
    ),
}
NEEDED_BY = {
    **dict.fromkeys(("sfid", "inception_score", "precision", "recall"), "inception"),
    "lpips": "lpips",
    "clip_score": "clip",
}


def networks_of(evaluation: Any) -> dict[str, list[str]]:
    """By network, the metrics that the section of `task.evaluation` asks of it."""
    found = {evaluation.features: ["fid", "fid_to_fp32"]} if evaluation.features in KINDS else {}
    for metric in evaluation.metrics:
        found.setdefault(NEEDED_BY[metric], []).append(metric)
    return found


def network(name: str, evaluation: Any) -> nn.Module | None:
    """None where its weights are absent. Raises RequestError where they are damaged."""
    try:
        return KINDS[name].build(evaluation, KINDS[name].locate(evaluation))
    except WeightsAbsent:
        return None


def not_measured(evaluation: Any) -> list[str]:
    """`sfid, precision: not measured: weights absent at PATH`, for each network that is not there. Raises RequestError
    where a package is missing, or weights that were to be fetched cannot be.
    """
    lines = []
    for name, metrics in networks_of(evaluation).items():
        try:
            KINDS[name].locate(evaluation)
        except WeightsAbsent as error:
            lines.append(f"{', '.join(metrics)}: not measured: {error}")
    return lines


def say_of_absent(config: Any) -> None:
    """A warning of what will not be measured, and how its weights would be fetched."""
    if config.method.judges_samples and config.model.kind == "denoiser":
        for line in not_measured(config.task.evaluation):
            logger.warning("%s; task.evaluation.download=true fetches them", line)


def refuse_unfit_metrics(config: Any, model: Any) -> None:
    """Raises RequestError for metrics that need prompts, of a model that has none, or larger images."""
    evaluation = getattr(config.task, "evaluation", None)
    metrics = getattr(evaluation, "metrics", ())
    if not (config.method.judges_samples and config.model.kind == "denoiser") or not metrics:
        return
    name = config.model.name
    if "clip_score" in metrics and not hasattr(model.conditioning, "prompts"):
        raise RequestError(
            f"task.evaluation.metrics: got clip_score, but model={name} draws without prompts, allowed: the others;"
            " drop clip_score"
        )
    side = model.shape[-1] * getattr(model.decoder, "factor", 1)
    least = lpips.LPIPS_NETWORKS[evaluation.lpips_network][1]
    if "lpips" in metrics and side < least:
        fitting = [one for one, (_, pixels) in lpips.LPIPS_NETWORKS.items() if side >= pixels]
        advice = f"type task.evaluation.lpips_network={fitting[0]}" if fitting else "drop lpips"
        raise RequestError(
            f"task.evaluation.metrics: got lpips, whose network {evaluation.lpips_network} takes images from {least}"
            f" pixels on, but model={name} makes {side}; {advice}"
        )
