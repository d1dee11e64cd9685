"""The batches of images that subnets of a supernet are scored on.

A supernet's BatchNorms use batch statistics, so accuracies depend on which images share a batch: batches of a single
class would rank subnets at random. All subnets see the same batches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from quantlab.methods.base import RunContext, seeded
from quantlab.methods.supernet import streams
from quantlab.tasks.base import iterate_batches, to_device


class Batches(Sequence):
    """Batches in the model's input format, prepared on the device on access and kept in the task's compact storage
    format.
    """

    def __init__(self, stored: list[dict[str, Tensor]], task: Any, device: torch.device):
        self.stored, self.task, self.device = stored, task, device

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return self.task.prepare(to_device(self.stored[number], self.device), train=False)

    @property
    def images(self) -> int:
        return sum(len(batch["label"]) for batch in self.stored)


def scoring_batches(context: RunContext, part: str, size: int, drawn: str, count: int | None = None) -> Batches:
    """Batches of `size` images of a part of the task, of its first `count` images or all.

    drawn: `whole`: in the order of the split, whole batches only (or a single smaller one); `random`: all images, in an
    order drawn by the seed, with a smaller last batch, as in the released code. All test images are used, with `whole`
    in batches of nearly equal size. Images sorted by class are always shuffled.
    """
    images = context.task.part(part)
    order = np.arange(len(images))
    if drawn == "random" or sorted_by_class(images.labels):
        order = seeded(context.config.seed, streams.IMAGE_ORDER).permutation(order)
    batches = divided(order[:count], size, drawn, whole_part=part == "test")
    loader = DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=context.task.collate,
        num_workers=context.task.workers,
        generator=torch.Generator(),
    )
    # Copies: tensors from worker processes are in shared memory, which may be scarce
    stored = [{name: tensor.clone() for name, tensor in batch.items()} for batch in iterate_batches(loader)]
    return Batches(stored, context.task, context.device)


def divided(order: np.ndarray, size: int, drawn: str, whole_part: bool) -> list[list[int]]:
    """The image indices of each batch."""
    if drawn == "whole" and whole_part:
        return [batch.tolist() for batch in np.array_split(order, -(-len(order) // size))]
    if drawn == "whole" and len(order) > size:
        order = order[: len(order) - len(order) % size]
    batches = [order[first : first + size].tolist() for first in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) == 1:  # a single image has no batch statistics
        single = batches.pop()
        batches[-1] += single
    return batches


def sorted_by_class(labels: Any) -> bool:
    """Whether int64 `[N]` labels are in ascending order."""
    labels = np.asarray(labels)
    return bool((labels[1:] >= labels[:-1]).all())
