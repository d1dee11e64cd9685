"""Boxes on images: where they are drawn, and in which colour."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from quantlab.report.boxes import CLASSES, TRUE, Boxes, detection_grid

FOUND = CLASSES[0]

NONE = Boxes(np.zeros((0, 4)), [], np.zeros(0))


def extent(picture, color):
    """Left, top, right, bottom of the pixels of `color` below the legend, which is a fifth of the picture at most;
    None without any.
    """
    near = np.abs(picture / 255 - to_rgb(color)).max(axis=2) < 0.1
    near[: len(picture) // 5] = False
    rows, columns = np.nonzero(near)
    return None if not len(rows) else (columns.min(), rows.min(), columns.max(), rows.max())


def test_boxes_stand_where_they_are(tmp_path):
    images = [np.zeros((20, 20, 1), np.uint8)]
    true, found = (
        Boxes(np.array([[2.0, 8, 14, 14]]), ["7"]),
        Boxes(np.array([[4.0, 10, 16, 19]]), ["1"], np.array([0.75])),
    )
    pictures = {}
    for name, truth, guess in (("true", true, NONE), ("found", NONE, found), ("neither", NONE, NONE)):
        path = detection_grid(images, [truth], {"model": [guess]}, tmp_path / "samples" / "boxes.png", 0.5)
        pictures[name] = np.asarray(Image.open(path).convert("RGB"))
    assert extent(pictures["neither"], TRUE) is extent(pictures["neither"], FOUND) is None
    assert extent(pictures["true"], FOUND) is None and extent(pictures["found"], TRUE) is None
    left, top, right, bottom = extent(pictures["true"], TRUE)
    black = np.nonzero((pictures["neither"][len(pictures["neither"]) // 5 :] == 0).all(axis=2).sum(axis=0) > 100)[0]
    pixel = (black.max() - black.min() + 1) / 20  # of the image, in pixels of the picture
    assert (right - left) / pixel == pytest.approx(12, abs=0.6) and (bottom - top) / pixel == pytest.approx(6, abs=0.6)
    assert (left - black.min()) / pixel == pytest.approx(2, abs=0.4)


def test_a_row_for_each_model_and_a_column_for_each_image(tmp_path):
    images = [np.zeros((20, 30, 3), np.uint8)] * 3
    one = Image.open(detection_grid(images, [NONE] * 3, {"a": [NONE] * 3}, tmp_path / "one.png", 0.5)).size
    two = Image.open(
        detection_grid(images, [NONE] * 3, {"a": [NONE] * 3, "b": [NONE] * 3}, tmp_path / "two.png", 0.5)
    ).size
    assert two[0] == one[0] and two[1] - one[1] == pytest.approx(one[0] / 3 * 20 / 30, abs=2)


def test_each_class_has_its_colour_in_every_row_and_nothing_found_is_said(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    said = []
    plainly = Axes.set_xlabel
    monkeypatch.setattr(Axes, "set_xlabel", lambda axes, text, **more: said.append(text) or plainly(axes, text, **more))
    found = Boxes(np.array([[2.0, 8, 9, 14], [11, 10, 18, 19]]), ["1", "7"], np.array([0.75, 0.6]))
    only = Boxes(np.array([[11.0, 10, 18, 19]]), ["7"], np.array([0.6]))
    images = [np.zeros((20, 20, 1), np.uint8)]
    path = detection_grid(images, [NONE], {"a": [found], "b": [only], "c": [NONE]}, tmp_path / "boxes.png", 0.5)
    picture = np.asarray(Image.open(path).convert("RGB"))
    below = extent(picture, CLASSES[1])
    assert said == ["nothing found"] and below[1] > 0 and extent(picture, CLASSES[0])[3] < below[3]
