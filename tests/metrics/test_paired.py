"""Paired metrics against values worked out by hand and general laws."""

import json

import pytest
import torch

from quantlab.metrics.paired import paired_metrics, paired_protocol


def test_a_constant_error_has_the_mse_and_psnr_of_the_formula():
    references = torch.zeros(3, 1, 8, 8)
    got = paired_metrics(references + 0.2, references)
    # 0.2 of [-1, 1] is 0.1 of [0, 1]: 10 log10(1 / 0.01) = 20 dB.
    assert got["mse_to_fp32"] == pytest.approx(0.04)
    assert got["psnr"] == pytest.approx(20.0)


def test_psnr_is_the_mean_over_images_and_not_that_of_the_mean_error():
    references = torch.zeros(2, 1, 8, 8)
    samples = torch.stack([references[0] + 0.2, references[1] + 0.02])  # 20 and 40 dB
    assert paired_metrics(samples, references)["psnr"] == pytest.approx(30.0, abs=1e-4)


def test_equal_images_have_finite_values_that_json_can_hold():
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    got = paired_metrics(images, images)
    assert got == {"psnr": 100.0, "ssim": pytest.approx(1.0), "mse_to_fp32": 0.0, "mse_to_fp32_median": 0.0}
    json.dumps(got, allow_nan=False)


def test_what_is_shown_is_clamped_and_the_mse_is_not():
    got = paired_metrics(torch.full((1, 1, 8, 8), 3.0), torch.full((1, 1, 8, 8), 1.0))
    assert got["psnr"] == 100 and got["mse_to_fp32"] == pytest.approx(4.0)


@pytest.mark.parametrize("size, sigma", [(8, 0.5), (16, 1.5), (28, 1.5)])
def test_ssim_falls_with_noise_at_every_size(size, sigma):
    torch.manual_seed(0)
    references = torch.rand(4, 1, size, size) * 2 - 1
    scores = [paired_metrics(references + s * torch.randn_like(references), references)["ssim"] for s in (0, 0.1, 0.5)]
    assert scores[0] == pytest.approx(1) and scores[0] > scores[1] > scores[2]
    assert paired_protocol(size)["ssim_sigma"] == sigma


def test_ssim_of_two_flat_images_is_the_luminance_term():
    # Greys of 0.25 and 0.75, no variance: (2 * 0.1875 + c) / (0.0625 + 0.5625 + c), c = 0.01 squared.
    flat = torch.full((1, 1, 8, 8), -0.5)
    assert paired_metrics(flat, -flat)["ssim"] == pytest.approx((0.375 + 1e-4) / (0.625 + 1e-4))


def test_more_images_than_one_batch_give_the_mean_over_all():
    references = torch.zeros(300, 1, 8, 8)
    samples = references.clone()
    samples[-1] += 1
    assert paired_metrics(samples, references)["mse_to_fp32"] == pytest.approx(1 / 300)


@pytest.mark.parametrize("count, expected", [(5, 0.04), (4, 0.025)])
def test_one_image_that_left_the_data_decides_the_mean_and_not_the_median(count, expected):
    samples = torch.tensor([0.1, 0.1, 0.2, 10.0, 0.3])[:count].view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    got = paired_metrics(samples, torch.zeros(count, 1, 8, 8))
    assert got["mse_to_fp32"] > 20 and got["mse_to_fp32_median"] == pytest.approx(expected)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        paired_metrics(torch.zeros(2, 1, 8, 8), torch.zeros(3, 1, 8, 8))
