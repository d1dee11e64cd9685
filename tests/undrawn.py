"""Runs whose figures nobody looks at: quantlab does all that it does for them, but matplotlib, which takes most of the
time of a run of a few steps, renders none of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from PIL import Image

BLANK = Image.new("RGB", (8, 6), "white")


@contextmanager
def undrawn() -> Iterator[None]:
    """In here, every figure is saved as a blank picture."""
    from matplotlib.figure import Figure

    with mock.patch.object(Figure, "savefig", lambda figure, file: BLANK.save(file, "png")):
        yield
