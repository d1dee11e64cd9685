"""Grids of images: pixels repeated exactly, differences amplified as the label says."""

import numpy as np
import pytest
from PIL import Image

from quantlab.report.grids import GAP, TILE, comparison_grid, labelled_rows, readable_amplification, sample_grid


def pixels(path):
    return np.asarray(Image.open(path))


def test_sample_grid_repeats_each_pixel(tmp_path):
    images = np.full((3, 1, 8, 8), -1.0, dtype=np.float32)
    images[1, 0, 2, 3] = 1.0
    images[2] = 0.0
    picture = pixels(sample_grid(images, tmp_path / "samples" / "grid.png", columns=2))
    assert picture.shape == (2 * 96 + GAP, 2 * 96 + GAP, 3)
    second = picture[:96, 96 + GAP :]
    assert (second[24:36, 36:48] == 255).all()
    assert second.sum() == 12 * 12 * 3 * 255
    assert (picture[96 + GAP :, :96] == 128).all()
    assert (picture[96 + GAP :, 96 + GAP :] == 255).all()


def test_values_outside_the_range_are_clipped_and_colours_kept(tmp_path):
    images = np.empty((1, 3, 48, 48))
    images[0, 0], images[0, 1], images[0, 2] = 5.0, -7.0, 1.0
    picture = pixels(sample_grid(images, tmp_path / "grid.png"))
    assert picture.shape == (96, 96, 3)
    assert (picture == [255, 0, 255]).all()


def test_comparison_rows_are_full_precision_quantized_and_difference(tmp_path):
    full = np.zeros((5, 1, 8, 8))
    quantized = full + 0.1  # 0.05 in the displayed range 0 to 1
    picture = pixels(comparison_grid(full, quantized, tmp_path / "grid.png", columns=4, amplify=8))
    assert picture.shape[0] == 3 * 96 + 2 * GAP
    tiles = picture[:, -(4 * 96 + 3 * GAP) :]
    assert (tiles[:96, :96] == 128).all()
    assert (tiles[96 + GAP : 192 + GAP, :96] == 140).all()  # 0.55 * 255 = 140.25
    assert (tiles[192 + 2 * GAP :, -96:] == 102).all()  # 0.05 * 8 * 255 = 102
    labels = picture[:, : -(4 * 96 + 3 * GAP)]
    assert all((row < 100).any() for row in (labels[:96], labels[102:198], labels[204:]))
    assert (labels[:, :3] == 255).all()


@pytest.mark.parametrize(
    ("difference", "factor"), [(0.05, 16), (0.5, 2), (0.51, 1), (1.0, 1), (1e-9, 256), (0.0, 1), (1 / 256, 256)]
)
def test_amplification_is_the_largest_power_of_two_that_does_not_clip(difference, factor):
    assert readable_amplification(np.full((2, 1, 4, 4), difference)) == factor


def test_equal_images_are_a_black_difference(tmp_path):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 1, 8, 8))
    picture = pixels(comparison_grid(images, images, tmp_path / "grid.png"))
    assert (picture[-96:, -96:] == 0).all()


def test_labelled_rows_wrap_at_the_columns_that_were_asked_for(tmp_path):
    images = np.linspace(-1, 1, 5)[:, None, None, None] * np.ones((5, 1, 8, 8))
    picture = np.asarray(
        Image.open(labelled_rows({"a": images, "b": images[:4]}, tmp_path / "grid.png", columns=2)).convert("L")
    )
    tile = TILE + GAP
    assert picture.shape[0] == 4 * tile - GAP  # two rows of two each: the shortest set says how many
    shown = picture[TILE // 2 :: tile, [picture.shape[1] - TILE - tile // 2, picture.shape[1] - TILE // 2]]
    assert shown.tolist() == [[0, 64], [128, 191]] * 2
