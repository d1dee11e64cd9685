"""Accuracies of many subnets: the same as one by one, resumable, and with recalibrated statistics."""

import numpy as np
import pytest
import torch

from quantlab.errors import RunError
from quantlab.models.nas_bench_201 import NasBench201Supernet
from quantlab.search.evaluation import _digest, _save_counts, accuracies, recalibrated_accuracies
from quantlab.search.nas_bench_201 import NasBench201

SPACE = NasBench201(width=4, cells=1, image_size=8, channels=1, classes=4)
SUBNETS = [SPACE.subnet(index) for index in (0, 11718, 7918, 15624, 3000)]


@pytest.fixture
def supernet():
    torch.manual_seed(0)
    return NasBench201Supernet(SPACE)


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [{"image": torch.randn(32, 1, 8, 8), "label": torch.randint(0, 4, (32,))} for _ in range(3)]


def plain(iterable, what):
    return iterable


def one_by_one(model, batches):
    found = []
    model.eval()
    for subnet in SUBNETS:
        model.activate(subnet)
        with torch.no_grad():
            found.append(
                100 * sum(int((model(batch["image"]).argmax(1) == batch["label"]).sum()) for batch in batches) / 96
            )
    return found


def test_all_at_once_is_as_one_by_one(supernet, batches):
    assert accuracies(supernet, SUBNETS, batches, plain) == pytest.approx(one_by_one(supernet, batches))


def test_an_interrupted_evaluation_goes_on(supernet, batches, tmp_path):
    partial, looked_at = tmp_path / "ranking", []

    def interrupted(iterable, what):
        for number in iterable:
            if number == 2 and len(looked_at) == 2:
                raise KeyboardInterrupt
            looked_at.append(number)
            yield number

    with pytest.raises(KeyboardInterrupt):
        accuracies(supernet, SUBNETS, batches, interrupted, partial)
    looked_at.append("again")
    assert accuracies(supernet, SUBNETS, batches, interrupted, partial) == pytest.approx(one_by_one(supernet, batches))
    assert looked_at == [0, 1, "again", 2] and list(tmp_path.iterdir()) == []


def test_what_was_counted_for_other_subnets_does_not_count(supernet, batches, tmp_path):
    partial = tmp_path / "ranking"
    _save_counts(partial, _digest(supernet, SUBNETS[::-1], 3), np.full(5, 32), 32, 1)
    assert accuracies(supernet, SUBNETS, batches, plain, partial) == pytest.approx(one_by_one(supernet, batches))


def test_what_was_counted_with_other_weights_does_not_count(supernet, batches, tmp_path):
    partial = tmp_path / "ranking"
    other = NasBench201Supernet(SPACE)  # of another run
    _save_counts(partial, _digest(other, SUBNETS, 3), np.full(5, 32), 32, 1)
    assert accuracies(supernet, SUBNETS, batches, plain, partial) == pytest.approx(one_by_one(supernet, batches))


def test_counts_that_were_changed_do_not_count(supernet, batches, tmp_path):
    partial = tmp_path / "ranking"
    _save_counts(partial, _digest(supernet, SUBNETS, 3), np.full(5, 31), 32, 1)
    file = tmp_path / "ranking.json"
    file.write_text(file.read_text().replace("31", "30"))
    assert accuracies(supernet, SUBNETS, batches, plain, partial) == pytest.approx(one_by_one(supernet, batches))


def test_logits_that_are_not_finite_are_no_class(supernet, batches):
    with torch.no_grad():
        supernet.fc.weight.fill_(float("inf"))
    for evaluate in (
        lambda: accuracies(supernet, SUBNETS, batches, plain),
        lambda: recalibrated_accuracies(supernet, SUBNETS, batches, batches, plain),
    ):
        with pytest.raises(RunError, match="NaN or infinite logits"):
            evaluate()


def test_recalibrated_statistics_are_those_of_the_calibration_images_and_leave_no_trace(supernet, batches):
    before = one_by_one(supernet, batches)
    names = supernet.state_dict().keys()
    shifted = []
    for subnet in SUBNETS[1:]:
        supernet.eval()
        supernet.activate(subnet)
        with torch.no_grad():
            predicted = supernet(batches[0]["image"]).argmax(1)
        labelled = [{"image": batches[0]["image"], "label": predicted}]
        # Calibrated on the very images, only Bessel's correction of the variance differs; on others the predictions
        # move
        assert recalibrated_accuracies(supernet, [subnet], labelled, labelled, plain)[0] > 90
        other = [{"image": 4 * batches[1]["image"] - 3, "label": predicted}]
        shifted += recalibrated_accuracies(supernet, [subnet], labelled, other, plain)
    assert min(shifted) < 80
    assert one_by_one(supernet, batches) == before and supernet.state_dict().keys() == names
