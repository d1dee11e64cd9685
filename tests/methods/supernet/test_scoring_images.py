"""The batches that subnets are scored on: whole or random, all images if requested, never of a single class."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from quantlab.methods.supernet.images import divided, scoring_batches
from quantlab.tasks.base import ImageDataset, collate


def context(labels, seed=0):
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None]  # an image says which it is
    part = ImageDataset(images, torch.tensor(labels), transform=lambda image: image)
    task = SimpleNamespace(
        part=lambda name: part,
        collate=collate,
        workers=0,
        prepare=lambda batch, train: batch | {"image": batch["image"].float() / 255},
    )
    return SimpleNamespace(task=task, device=torch.device("cpu"), config=SimpleNamespace(seed=seed))


def places(batches):
    return [(255 * batch["image"]).round().int().flatten().tolist() for batch in batches]


MIXED = [0, 1, 2] * 7  # 21 images, in the order of a split


def test_whole_batches_come_in_the_order_of_the_split_and_leave_a_rest_out():
    batches = scoring_batches(context(MIXED), "validation", 8, "whole")
    assert places(batches) == [list(range(8)), list(range(8, 16))] and batches.images == 16 and len(batches) == 2
    assert batches.stored[0]["image"].dtype == torch.uint8 and batches[0]["image"].dtype == torch.float32
    assert places(scoring_batches(context(MIXED), "train", 8, "whole", count=5)) == [list(range(5))]
    sizes = [len(batch) for batch in places(scoring_batches(context(MIXED), "test", 8, "whole"))]
    assert sizes == [7, 7, 7]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_random_batches_hold_every_image_once_by_the_seed(part):
    first, again, other = (places(scoring_batches(context(MIXED, seed), part, 8, "random")) for seed in (0, 0, 1))
    assert first == again != other and [len(batch) for batch in first] == [8, 8, 5]
    assert sorted(sum(first, [])) == list(range(21)) != sum(first, [])


def test_a_last_batch_of_one_image_joins_the_one_before():
    assert [len(batch) for batch in divided(np.arange(17), 8, "random", whole_part=False)] == [8, 9]
    assert divided(np.arange(1), 8, "random", whole_part=False) == [[0]]


@pytest.mark.parametrize(
    "part, drawn, count",
    [("validation", "whole", None), ("train", "whole", 24), ("test", "whole", None), ("test", "random", 24)],
)
def test_images_that_lie_sorted_by_class_are_mixed(part, drawn, count):
    batches = scoring_batches(context([0] * 16 + [1] * 16 + [2] * 16), part, 12, drawn, count)
    assert all(len(set(batch["label"].tolist())) == 3 for batch in batches) and batches.images == (count or 48)
