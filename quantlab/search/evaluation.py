"""Accuracies of many subnets of one supernet on the same images.

With batch statistics (as in the supernet paper, whose BatchNorms have no others) all subnets are evaluated on a batch
before the next one, and shared computations are done once. With recalibration (SPOS) each subnet first collects running
statistics on training images.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quantlab.errors import CorruptFileError, RequestError, RunError
from quantlab.run.state import load_state, remove_state, save_state, tensors_digest
from quantlab.search.spaces import Subnet

logger = logging.getLogger("quantlab")

SUBNETS_AT_ONCE = 4096  # in memory, with their logits for one batch
Batch = dict[str, Tensor]  # `image` float [N, C, H, W], `label` int64 [N]


@torch.no_grad()
def accuracies(
    model: nn.Module,
    subnets: Sequence[Subnet],
    batches: Sequence[Batch],
    progress: Callable[..., Iterable],
    partial: Path | None = None,
    what: str = "ranking",
) -> list[float]:
    """Top-1 of each subnet, percent, over all `batches`, with their batch statistics.

    partial: path without extension of the files that store counts so far, so that an interrupted evaluation can resume;
    removed at the end. Counts of other weights, subnets or images do not count.
    """
    model.eval()
    of = "" if partial is None else _digest(model, subnets, len(batches))
    correct, counted, start = _load_counts(partial, of, len(subnets))
    for number in progress(range(start, len(batches)), f"{what}: {len(subnets)} subnets"):
        batch = batches[number]
        images, labels = batch["image"], batch["label"]
        for first in range(0, len(subnets), SUBNETS_AT_ONCE):
            found = _predicted(model.logits_of(images, subnets[first : first + SUBNETS_AT_ONCE])) == labels
            correct[first : first + SUBNETS_AT_ONCE] += found.sum(1).cpu().numpy()
        counted += len(labels)
        if partial is not None:
            _save_counts(partial, of, correct, counted, number + 1)
    if partial is not None:
        remove_state(partial)
    return (100 * correct / counted).tolist()


@torch.no_grad()
def recalibrated_accuracies(
    model: nn.Module,
    subnets: Sequence[Subnet],
    batches: Sequence[Batch],
    calibration: Sequence[Batch],
    progress: Callable[..., Iterable],
    what: str = "ranking",
) -> list[float]:
    """As `accuracies`, with statistics that each subnet collects on the `calibration` batches.

    They are the plain mean over all batches (our choice). The lab's released search does not recalibrate by default;
    where it does, it uses BatchNorm's moving average with momentum 0.1, which forgets all but the last twenty batches
    or so.
    """
    found = []
    with running_statistics(model) as layers:
        for subnet in progress(subnets, f"{what}: {len(subnets)} subnets, recalibrated"):
            model.activate(subnet)
            for layer in layers:
                layer.reset_running_stats()
            model.train()
            for batch in calibration:
                model(batch["image"])
            model.eval()
            correct, counted = 0, 0
            for batch in batches:
                correct += int((_predicted(model(batch["image"])) == batch["label"]).sum())
                counted += len(batch["label"])
            found.append(100 * correct / counted)
    return found


def _predicted(logits: Tensor) -> Tensor:
    """The class of each image, from logits [..., classes]. Raises RunError for NaN or infinity, of which argmax would
    make a class too.
    """
    if not logits.isfinite().all():
        raise RunError(
            "subnets give NaN or infinite logits with the supernet's weights, although those are finite; lower"
            " method.learning_rate and start again"
        )
    return logits.argmax(-1)


@contextmanager
def running_statistics(model: nn.Module) -> Iterator[list[nn.BatchNorm2d]]:
    """Within this context the BatchNorms of `model` keep running statistics, a plain mean over the batches since their
    reset.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(layer.momentum, layer.track_running_stats) for layer in layers]
    for layer in layers:
        device = next(model.parameters()).device
        layer.momentum, layer.track_running_stats = None, True
        layer.running_mean, layer.running_var = (
            torch.zeros(layer.num_features, device=device),
            torch.ones(layer.num_features, device=device),
        )
        layer.num_batches_tracked = torch.zeros((), dtype=torch.long, device=device)
    try:
        yield layers
    finally:
        for layer, (momentum, tracked) in zip(layers, before):
            layer.momentum, layer.track_running_stats = momentum, tracked
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def _load_counts(partial: Path | None, of: str, subnets: int) -> tuple[np.ndarray, int, int]:
    """For each subnet the number of correctly classified images, then the number of images and of batches; zeros if
    there is no valid file of what is evaluated (`_digest`).
    """
    nothing = np.zeros(subnets, dtype=np.int64), 0, 0
    if partial is None:
        return nothing
    try:
        saved, _ = load_state(partial)
    except RequestError:
        return nothing
    except CorruptFileError as error:
        logger.warning("%s; the subnets are evaluated from the start", error)
        return nothing
    if saved.get("of") != of:
        return nothing
    return np.array(saved["right"]), saved["images"], saved["batches"]


def _save_counts(partial: Path, of: str, correct: np.ndarray, images: int, batches: int) -> None:
    # A list instead of a tensor, so that everything is in one file, which is replaced atomically
    save_state(partial, {"of": of, "right": correct.tolist(), "images": images, "batches": batches})


def _digest(model: nn.Module, subnets: Sequence[Subnet], batches: int) -> str:
    """sha256 (hex) of what the counts are of: the weights, the subnets in their order, the number of batches."""
    facts = [tensors_digest(model.state_dict()), [tuple(map(int, subnet)) for subnet in subnets], batches]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
