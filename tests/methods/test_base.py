"""Which images a step sees: a function of the step alone."""

import pytest

from quantlab.methods.base import batches_per_epoch, shuffled_batch


@pytest.mark.parametrize(
    "size, batch_size, drop_last, steps",
    [
        (50_000, 128, False, 391),
        (50_000, 128, True, 390),
        (50_000, 256, False, 196),
        (50_000, 256, True, 195),
        (512, 256, False, 2),
        (512, 256, True, 2),
        (10, 256, False, 1),
        (10, 256, True, 1),
    ],
)
def test_an_epoch_has_so_many_steps(size, batch_size, drop_last, steps):
    assert batches_per_epoch(size, batch_size, drop_last) == steps


@pytest.mark.parametrize("drop_last, sizes", [(True, [4, 4]), (False, [4, 4, 2])])
def test_an_epoch_shows_an_image_at_most_once_and_another_epoch_another_order(drop_last, sizes):
    batches = [shuffled_batch(10, 4, 0, step, drop_last) for step in range(2 * len(sizes))]
    assert [len(batch) for batch in batches] == 2 * sizes
    epochs = [sum(batches[: len(sizes)], []), sum(batches[len(sizes) :], [])]
    assert [len(set(epoch)) for epoch in epochs] == [sum(sizes)] * 2 and epochs[0] != epochs[1]
    assert batches[: len(sizes)] != [shuffled_batch(10, 4, 1, step, drop_last) for step in range(len(sizes))]
