"""A picture that the disk has no room for names its file, and leaves what was there."""

import errno
import os

import numpy as np
import pytest

from quantlab.report.grids import sample_grid


def test_a_full_disk_names_the_picture_and_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "figures" / "grid.png"
    images = np.zeros((2, 1, 8, 8), dtype=np.float32)
    before = sample_grid(images, path).read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        sample_grid(images + 1, path)
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]
