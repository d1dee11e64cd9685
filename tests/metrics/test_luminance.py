"""PSNR and SSIM of the luminance, against values worked out by hand."""

import math

import pytest
import torch

from quantlab.metrics.luminance import luminance, luminance_metrics


def test_luminance_of_black_white_and_the_primaries():
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64).view(
        5, 3, 1, 1
    )
    assert luminance(colours).flatten().tolist() == pytest.approx([16, 235, 81.481, 144.553, 40.966])


def test_psnr_of_a_known_error_is_of_luminance_and_inside_the_border():
    original = torch.full((2, 3, 20, 20), 100 / 255)
    restored = original.clone()
    restored[0, 1, 2:-2, 2:-2] += 10 / 255  # green alone: 10 / 255 * 128.553 of Y, at every pixel that counts
    restored[1, :, :2] = 1.0  # only the border is wrong
    found = luminance_metrics(restored, original, border=2)
    assert found["psnr_y"].tolist() == pytest.approx([20 * math.log10(255 / (10 / 255 * 128.553)), 100.0])
    assert found["ssim"][1] == pytest.approx(1.0) and found["ssim"][0] < 1
    assert luminance_metrics(restored, original, border=0)["psnr_y"][1] < 20


def test_an_output_is_seen_in_8_bits_and_clamped():
    original = torch.zeros(1, 3, 16, 16)
    seen = luminance_metrics(original + 0.49 / 255, original, border=0)
    assert seen["psnr_y"].item() == 100.0 and seen["ssim"].item() == pytest.approx(1.0)
    assert luminance_metrics(original - 3.0, original, border=0)["psnr_y"].item() == 100.0
    # one level of 255: 219 / 255 of Y
    one = luminance_metrics(original + 0.51 / 255, original, border=0)["psnr_y"].item()
    assert one == pytest.approx(20 * math.log10(255 / (219 / 255)))


def test_ssim_of_two_flat_images():
    original = torch.full((1, 3, 16, 16), 100 / 255)
    y, shifted = (16 + 219 * level / 255 for level in (100, 140))
    c1 = (0.01 * 255) ** 2  # variances are zero: only the comparison of means is left (Wang et al. 2004, Eq. 6)
    wanted = (2 * y * shifted + c1) / (y**2 + shifted**2 + c1)
    assert (
        luminance_metrics(original + 40 / 255, original, border=2)["ssim"].item()
        == pytest.approx(wanted, abs=1e-3)
        != 1
    )
