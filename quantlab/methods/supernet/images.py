"""The batches of images that subnets of a supernet are scored on.

A supernet's BatchNorms take the statistics of the batch, so accuracies depend on which images share one: a batch of a
single class would rank subnets by chance. Batches are the same for every subnet.
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
    """Batches as the model takes them, made on the device when one is asked for; until then they are as small as
    the task stores them.
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

    drawn: `whole`: in the order that the split left them in, whole batches or the one that there is; `random`: all of
    them in an order of the seed, the last batch smaller, as the released code. Of the test part all images come, in
    `whole` in batches of nearly one size. Images that lie sorted by class are shuffled in any case.
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
    # Copies: what another process loaded lies in shared memory, of which there may be little
    stored = [{name: tensor.clone() for name, tensor in batch.items()} for batch in iterate_batches(loader)]
    return Batches(stored, context.task, context.device)


def divided(order: np.ndarray, size: int, drawn: str, whole_part: bool) -> list[list[int]]:
    """The images of each batch."""
    if drawn == "whole" and whole_part:
        return [batch.tolist() for batch in np.array_split(order, -(-len(order) // size))]
    if drawn == "whole" and len(order) > size:
        order = order[: len(order) - len(order) % size]
    batches = [order[first : first + size].tolist() for first in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) == 1:  # one image has no statistics
        single = batches.pop()
        batches[-1] += single
    return batches


def sorted_by_class(labels: Any) -> bool:
    """Whether the images of each class, int64 `[N]` labels, lie together, in the order of the classes."""
    labels = np.asarray(labels)
    return bool((labels[1:] >= labels[:-1]).all())
