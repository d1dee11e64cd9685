"""Pictures of runs small enough that a page holds those of many runs."""

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MOST_BYTES = 6_000_000  # of all pictures of a page, before base64
MOST_PIXELS = 250_000_000  # that are read for a page: some seconds
LARGEST = 40_000_000  # pixels of one picture; a larger one is no picture of ours
WIDTHS = (320, 1200)  # of a picture on a crowded page, and on one with room


def thumbnails(pictures: Sequence[Sequence[Path]]) -> list[list[str | None]]:
    """Data URIs for the pictures of each run, in their order; None for one that has no room, or is no PNG file of a
    picture, or a link to a file elsewhere. Every run has its first.
    """
    bytes_each = MOST_BYTES // max(1, sum(map(len, pictures)))
    pixels_each = MOST_PIXELS // max(1, len(pictures))
    jobs: list[tuple[int, int, Path]] = []
    for run, files in enumerate(pictures):
        left = pixels_each
        for place, file in enumerate(files):
            size, is_small = _pixels(file), _bytes(file) <= bytes_each
            if size and (is_small or size <= left or not place):
                jobs.append((run, place, file))
                left -= 0 if is_small else size
    bytes_each = max(bytes_each, MOST_BYTES // max(1, len(jobs)))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        made = pool.map(lambda job: _uri(job[2], bytes_each), jobs)
        found: list[list[str | None]] = [[None] * len(files) for files in pictures]
        left = MOST_BYTES * 4 // 3
        for (run, place, _), uri in zip(jobs, made, strict=True):
            if uri is not None and len(uri) <= left:
                found[run][place] = uri
                left -= len(uri)
    return found


def _pixels(file: Path) -> int:
    """0 for what is not to be shown."""
    from PIL import Image

    try:
        if file.is_symlink():
            return 0
        with Image.open(file, formats=["PNG"]) as picture:
            size = picture.width * picture.height
    except Exception:  # of a damaged or malicious file, Pillow raises almost anything
        return 0
    return size if size <= LARGEST else 0


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # the run was removed
        return 0


def _uri(file: Path, bytes_each: int) -> str | None:
    from PIL import Image

    try:
        if _bytes(file) <= bytes_each:
            return _data("png", file.read_bytes())
        width = min(WIDTHS[1], max(WIDTHS[0], int(bytes_each / 1000 * 24)))
        with Image.open(file, formats=["PNG"]) as picture:
            small = picture.convert("RGB")
        content = _webp(small, width)
        if len(content) > bytes_each:  # noise hardly compresses
            content = _webp(small, max(WIDTHS[0] // 3, int(width * (bytes_each / len(content)) ** 0.5)))
    except Exception:  # as above; or the run was removed
        return None
    return _data("webp", content)


def _webp(picture: "Image.Image", width: int) -> bytes:
    """Scales the picture down in place, to at most so many pixels."""
    picture.thumbnail((width, 3 * width), 2, reducing_gap=2.0)  # bilinear
    content = io.BytesIO()
    picture.save(content, "WEBP", quality=60, method=0)
    return content.getvalue()


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
