"""The spectrum ratio: 1 for the same images, larger for noise and blur, and not finite where they are not."""

import math

import pytest
import torch
from sklearn.datasets import load_digits

from quantlab.metrics.spectrum import GREY_LEVEL, band_energies, spectrum_ratio


@pytest.fixture(scope="module")
def digits():
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]


def test_energy_stands_at_its_frequency():
    x = torch.arange(8) * 2 * math.pi / 8
    wave = torch.cos(2 * x).expand(1, 1, 8, 8)  # two cycles: energy 32 in two of the twelve places of band 2
    energies = band_energies(wave)
    assert torch.allclose(energies, torch.eye(len(energies))[2] * 32 / 12, atol=1e-5)
    assert torch.allclose(band_energies(torch.ones(3, 1, 8, 8))[:2], torch.tensor([64.0, 0.0]))


def test_a_known_factor():
    images = torch.randn(1000, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.05
    exact = (band_energies(images * 2) + GREY_LEVEL**2).log() - (band_energies(images) + GREY_LEVEL**2).log()
    assert (
        spectrum_ratio(images * 2, images)
        == pytest.approx(float(exact.abs().mean().exp()))
        == pytest.approx(3.9, abs=0.1)
    )
    assert spectrum_ratio(images, images * 2) == pytest.approx(spectrum_ratio(images * 2, images))


def test_other_images_of_the_set_are_near_and_damaged_ones_are_not(digits):
    near = [spectrum_ratio(digits[first : first + 64], digits[-512:]) for first in range(0, 640, 64)]
    assert max(near) < 1.25
    noise = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    blurred = torch.nn.functional.avg_pool2d(digits[:64], 3, stride=1, padding=1)
    for damaged in (noise, digits[:64] + noise, blurred, torch.zeros(64, 1, 8, 8)):
        assert spectrum_ratio(damaged, digits[-512:]) > 1.5
    assert math.isnan(spectrum_ratio(digits[:64] * math.nan, digits[-512:]))
