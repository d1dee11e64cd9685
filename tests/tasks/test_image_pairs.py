"""Low resolution, tiles and patches: what resampling keeps, that pairs stay aligned, that tiles share no pixel."""

import pytest
import torch

from quantlab.tasks.image_pairs import Bicubic, Tiles, centre_patches, downsample, pair, random_patches


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_constant_stays_and_a_ramp_is_sampled_at_the_centres(scale):
    assert (downsample(torch.full((3, 12, 24), 77, dtype=torch.uint8), scale) == 77).all()
    ramp = (4 * torch.arange(48)).to(torch.uint8).expand(3, 12, 48)
    centres = 4 * (scale * torch.arange(48 // scale) + (scale - 1) / 2)  # a symmetric kernel keeps straight lines
    inner = slice(3, -3)
    assert (downsample(ramp, scale).float() - centres)[..., inner].abs().max() <= 0.5


def test_low_resolution_is_filtered_before_it_is_thinned_out():
    checks = (255 * (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255).to(torch.uint8).expand(3, 32, 32)
    # grey, neither black nor white
    assert ((downsample(checks, 2).float() - 127.5).abs()[:, 3:-3, 3:-3] <= 1).all()


def test_the_original_is_cut_to_a_multiple_of_the_scale():
    image = torch.randint(0, 256, (3, 13, 18), dtype=torch.uint8)
    low, high = pair(image, 4)
    assert low.shape == (3, 3, 4) and torch.equal(high, image[:, :12, :16])


def test_bicubic_is_keys_with_a_half():
    # A step enlarged by two. Keys (1981, Eq. 4) with a = -1/2 at distances 0.25, 0.75, 1.25 and 1.75
    near, far, beyond, last = 0.8671875, 0.2265625, -0.0703125, -0.0234375
    step = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]).expand(1, 1, 8, 8)
    wanted = [last, beyond, far + last, near + beyond, 1 - beyond, 1 - last]
    assert Bicubic(2)(step)[0, 0, 8, 5:11].tolist() == pytest.approx(wanted, abs=1e-5)


def test_tiles_cover_without_sharing_a_pixel():
    pairs = [pair(torch.zeros(3, 44, 60, dtype=torch.uint8), 2), pair(torch.zeros(3, 20, 22, dtype=torch.uint8), 2)]
    tiles = Tiles(pairs, side=10, scale=2)
    assert len(tiles) == 2 * 3 + 1
    for index in range(len(tiles)):
        tiles[index]["high"].add_(1)  # tiles are views: a pixel of two tiles would be counted twice
    assert all(high.max() == 1 for _, high in pairs) and pairs[0][1][0, 0, 0] == pairs[0][1][0, -1, -1] == 1
    batch = tiles.__getitems__([0, 6])
    assert batch["low"].shape == (2, 3, 10, 10) and batch["high"].shape == (2, 3, 20, 20)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_augmented_patch_is_still_the_low_resolution_of_its_original(scale):
    torch.manual_seed(0)
    low, high = pair(torch.randint(0, 256, (3, 30 * scale, 30 * scale), dtype=torch.uint8), scale)
    batch = low.expand(40, -1, -1, -1), high.expand(40, -1, -1, -1)
    small, large = random_patches(*batch, side=12, flips=True, rotations=True)
    assert small.shape == (40, 3, 12, 12) and large.shape == (40, 3, 12 * scale, 12 * scale)
    inner = (..., slice(3, -3), slice(3, -3))  # the patch's border was made with its neighbours
    again = downsample(large.contiguous(), scale)[inner].float()
    assert (again - small[inner].float()).abs().max() <= 1
    assert (again.roll(1, -1) - small[inner].float()).abs().max() > 20  # a shift by one pixel would have been seen
    small, large = centre_patches(*batch, side=12)
    assert torch.equal(small[0], low[:, 9:21, 9:21])
    assert torch.equal(large[0], high[:, 9 * scale : 21 * scale, 9 * scale : 21 * scale])


def test_all_eight_orientations_and_all_places_are_drawn_by_the_generator():
    low = torch.arange(3 * 9, dtype=torch.uint8).view(3, 3, 3).expand(400, 3, 3, 3)
    high = low.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.manual_seed(1)
    patches = random_patches(low, high, 2, True, True)
    torch.manual_seed(1)
    assert all(map(torch.equal, patches, random_patches(low, high, 2, True, True)))
    assert len({bytes(patch.contiguous().numpy()) for patch in patches[0]}) == 4 * 8
    assert len({bytes(patch.contiguous().numpy()) for patch in random_patches(low, high, 2, False, False)[0]}) == 4
    assert len({bytes(patch.contiguous().numpy()) for patch in random_patches(low, high, 2, True, False)[0]}) == 4 * 2
