"""The Frechet distance against its closed form, in known feature spaces."""

import logging
import math

import pytest
import torch
from torch import nn

from quantlab.metrics import fid
from quantlab.metrics.fid import FrechetDistance


class Pixels(nn.Module):
    """The identity: an image of k pixels has k features. Counts the images that it gets."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features, self.seen = num_features, 0

    def features(self, images):
        self.seen += len(images)
        return images.flatten(1)


def as_images(features):
    return features.float()[:, None, None, :]


def exact_gaussian(n, mean, covariance):
    """n vectors whose sample mean and (n - 1) covariance are exactly these."""
    x = torch.randn(n, len(mean), dtype=torch.float64)
    x = x - x.mean(0)
    whiten = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return as_images(x @ whiten @ torch.linalg.cholesky(covariance).T + mean)


def test_distance_to_itself_is_zero_and_never_negative():
    torch.manual_seed(0)
    images = torch.randn(50, 1, 1, 6)
    distance = FrechetDistance(Pixels(6)).reference(images).measure(images)
    assert 0 <= distance < 1e-6


def test_two_gaussians_with_commuting_covariances():
    # |m1 - m2|^2 + sum (s1 - s2)^2: 9 + 16 + (1 - 2)^2 + (3 - 1)^2 = 30.
    torch.manual_seed(0)
    first = exact_gaussian(100, torch.tensor([0.0, 0.0]), torch.diag(torch.tensor([1.0, 9.0])).double())
    second = exact_gaussian(80, torch.tensor([3.0, 4.0]), torch.diag(torch.tensor([4.0, 1.0])).double())
    assert FrechetDistance(Pixels(2)).reference(first).measure(second) == pytest.approx(30.0, rel=1e-5)


def test_two_gaussians_whose_covariances_do_not_commute():
    torch.manual_seed(0)
    a = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    # In two dimensions tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)); M = AB has trace 10 and determinant 12.
    expected = 4 + 5 - 2 * math.sqrt(10 + 2 * math.sqrt(12))
    zero = torch.zeros(2, dtype=torch.float64)
    distance = FrechetDistance(Pixels(2)).reference(exact_gaussian(60, zero, a))
    assert distance.measure(exact_gaussian(60, zero, b)) == pytest.approx(expected, rel=1e-5)


def test_many_distances_compute_the_reference_once_and_do_not_disturb_each_other():
    torch.manual_seed(0)
    network = Pixels(3)
    reference, near, far = torch.randn(40, 1, 1, 3), torch.randn(30, 1, 1, 3), torch.randn(30, 1, 1, 3) + 5
    distance = FrechetDistance(network).reference(reference)
    first = distance.measure(near)
    assert distance.measure(far) > 50 and distance.measure(near) == first
    assert network.seen == 40 + 3 * 30
    assert distance.reference(far).measure(far) < 1e-6


def test_batching_does_not_change_the_distance():
    torch.manual_seed(0)
    reference, images = torch.randn(40, 1, 1, 3), torch.randn(33, 1, 1, 3)
    whole = FrechetDistance(Pixels(3), batch_size=100).reference(reference).measure(images)
    parts = FrechetDistance(Pixels(3), batch_size=7).reference(reference.split(9)).measure(images)
    assert parts == pytest.approx(whole, rel=1e-9)


def test_images_that_are_not_finite_give_nan():
    distance = FrechetDistance(Pixels(3)).reference(torch.randn(9, 1, 1, 3))
    assert math.isnan(distance.measure(torch.full((9, 1, 1, 3), float("nan"))))


def test_small_counts_warn_once(caplog):
    fid._warn_of_bias.cache_clear()
    distance = FrechetDistance(Pixels(2)).reference(torch.randn(30, 1, 1, 2))
    with caplog.at_level(logging.WARNING, logger="quantlab"):
        for _ in range(3):
            distance.measure(torch.randn(20, 1, 1, 2))
    assert [record.message for record in caplog.records] == [
        "FID of 20 samples is biased upward; compare equal counts only"
    ]
