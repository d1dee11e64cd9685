"""Which files count as images, how skipped files are reported, and how every kind of pixel becomes 8 bits."""

import logging
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from quantlab.errors import RequestError
from quantlab.tasks.image_files import class_labels, find_images, formats
from quantlab.tasks.image_folder import decode, read_image


def save(path, colour=(10, 20, 30), size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


@pytest.fixture
def classes(tmp_path):
    for name in ("cat", "dog"):
        for number in range(2):
            save(tmp_path / name / f"{number}.png")
    return tmp_path


def refusal(call, *arguments):
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels(folder):
    return class_labels(folder, find_images(folder))


def test_what_pillow_decodes_counts_in_upper_and_lower_case(classes):
    for name in ("a.JPG", "b.jfif", "c.avif", "d.webp", "e.jp2", "f.TIF", "g.tga", "h.qoi", "i.pgm"):
        # AVIF, WebP and JPEG 2000 depend on how Pillow was built
        if os.path.splitext(name)[1].lower() in formats():
            save(classes / "cat" / name)
    found = find_images(classes)
    assert len(found) == 4 + sum(ending in formats() for ending in (".jfif", ".avif", ".webp", ".jp2")) + 5
    assert all(read_image(classes / file, 4, 3).shape == (3, 4, 4) for file in found)
    assert ".eps" not in formats() and ".mpg" not in formats() and ".h5" not in formats()


def test_other_files_are_left_out_with_a_line_and_clutter_without(classes, caplog):
    for name in ("notes.txt", "cat/1.heic", "cat/2.HEIC", "cat/Thumbs.db", ".DS_Store", "dog/desktop.ini"):
        (classes / name).write_bytes(b"something")
    with caplog.at_level(logging.INFO, logger="quantlab"):
        assert labels(classes) == [0, 0, 1, 1]
    assert "skipped files that Pillow cannot read as images, 2 .heic, 1 .txt; the first is cat/1.heic" in caplog.text
    assert "Thumbs" not in caplog.text and len(caplog.records) == 1


def test_a_class_folder_without_an_image_is_named(classes):
    (classes / "bird").mkdir()
    (classes / "fish").mkdir()
    for number in range(3):
        (classes / "fish" / f"{number}.HEIC").write_bytes(b"something")
    (classes / ".cache").mkdir()
    message = refusal(labels, classes)
    assert (
        "there is no image in its folder 'bird' (empty), 'fish' (3 .heic), allowed: in every class folder images"
        in message
    )
    save(classes / "stray.png")  # now the folders are not classes, and skipped files are reported
    assert labels(classes) is None


def test_runs_that_were_left_in_the_folder_are_no_data(classes):
    save(classes / "outputs" / "today" / "samples" / "comparison.png")
    (classes / "outputs" / "today" / ".hydra").mkdir()
    (classes / "run" / ".hydra").mkdir(parents=True)
    (classes / "first" / "today" / "now").mkdir(parents=True)
    assert labels(classes) == [0, 0, 1, 1]


def test_a_folder_of_other_files_says_which(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"something")
    assert "holds no images; at least 2 are needed" in refusal(find_images, tmp_path)
    assert "It holds 1 .heic: convert them, or give another folder with data_dir=PATH" in refusal(find_images, tmp_path)


@pytest.mark.parametrize(
    "spoil, says",
    [
        (
            lambda folder: (folder / "3.png").symlink_to("/nowhere/3.png"),
            "3.png is a link to /nowhere/3.png: No such file or directory",
        ),
        (lambda folder: (folder.parent / "owl").symlink_to("/nowhere"), "owl is a link to /nowhere: No such file"),
        (
            lambda folder: ((folder / "3.png").symlink_to("4.png"), (folder / "4.png").symlink_to("3.png")),
            "(1 more such files)",
        ),
        (lambda folder: (folder / "3.png").write_bytes(b""), "3.png is empty (0 bytes); remove or replace it"),
        (lambda folder: os.mkfifo(folder / "3.png"), "3.png is not a regular file"),  # reading it would block
    ],
)
def test_files_that_cannot_be_read_are_named_before_any_work(spoil, says, classes):
    spoil(classes / "cat")
    assert says in refusal(find_images, classes)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_without_permission_are_named(classes):
    (classes / "cat" / "0.png").chmod(0)
    assert "0.png cannot be read: permission denied" in refusal(find_images, classes)
    (classes / "cat").chmod(0)
    assert "cat cannot be read (Permission denied); check its permissions" in refusal(find_images, classes)
    (classes / "cat").chmod(0o700)


@pytest.mark.parametrize("ending, options", [("png", {}), ("tif", {}), ("pgm", {}), ("jp2", {"irreversible": False})])
def test_16_bits_of_grey_become_their_upper_8(ending, options, tmp_path):
    values = np.array([[0, 255, 256, 40_000], [65_535, 1_000, 32_768, 511]], dtype=np.uint16)
    if f".{ending}" not in formats():
        pytest.skip("this Pillow has no decoder")
    Image.fromarray(values).save(tmp_path / f"deep.{ending}", **options)
    for channels in (1, 3):
        levels = np.asarray(decode(tmp_path / f"deep.{ending}", channels))
        assert levels.reshape(2, 4, channels)[..., 0].tolist() == [[0, 0, 1, 156], [255, 3, 128, 1]]


def test_numbers_of_unknown_range_are_refused_by_name(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.ones((4, 4), np.int32)).save(tmp_path / "int.tif")
    assert "float.tif holds floats (Pillow's mode F), whose range is unknown, allowed: 8 or 16 bits" in refusal(
        decode, tmp_path / "float.tif", 3
    )
    assert "int.tif holds 32-bit integers" in refusal(decode, tmp_path / "int.tif", 1)


def test_every_mode_becomes_rgb_without_a_warning(tmp_path):
    red = (255, 0, 0)
    palette = Image.new("RGB", (4, 4), red).quantize(2)
    palette.save(tmp_path / "palette.png", transparency=bytes([0, 128]))
    save(tmp_path / "alpha.png", (*red, 0), mode="RGBA")  # transparency is dropped: the colour under it shows
    save(tmp_path / "cmyk.tif", (0, 255, 255, 0), mode="CMYK")
    Image.new("RGB", (4, 4), red).save(
        tmp_path / "frames.gif", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")]
    )
    save(tmp_path / "line.png", red, size=(5000, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for file in tmp_path.iterdir():
            pixels = read_image(file, 4, 3)
            assert pixels.shape == (3, 4, 4) and pixels[:, 0, 0].tolist() == list(red), file
    assert np.asarray(decode(save(tmp_path / "one_bit.png", 1, mode="1"), 1)).tolist() == [[255] * 8] * 8


def test_a_rotation_noted_by_a_camera_is_applied_unless_boxes_are_drawn_on_the_stored_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    save(tmp_path / "photo.jpg", size=(16, 8), exif=exif)
    assert decode(tmp_path / "photo.jpg", 3).size == (8, 16)
    assert decode(tmp_path / "photo.jpg", 3, upright=False).size == (16, 8)


def test_an_image_too_large_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    assert "0.png has more than 80 pixels; make it smaller, or remove it" in refusal(
        decode, save(tmp_path / "0.png", size=(10, 10)), 3
    )
