"""Images in files as arrays: 8 bits per channel, RGB or grey, and for a whole folder one square size.

Of an animation the first frame is used. Transparency is dropped, as in torchvision's ImageFolder, which uncovers the
colours beneath.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from quantlab.errors import RequestError
from quantlab.progress import Bar
from quantlab.tasks.image_files import formats

# Pillow already warns at half of the size that it refuses. Such images are read.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# formats whose mode I has the range 0 to 65535; in a TIFF it can be anything
SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")


def read_images(folder: Path, files: list[Path], size: int, channels: int) -> np.ndarray:
    """uint8 `[N, channels, size, size]`: the shorter side resized to `size` (bilinear, antialiased), centre-cropped.

    `channels` 3 gives RGB, 1 luminance; EXIF rotation is applied.

    Raises:
        RequestError: a file is not an image or damaged, or its values have no known range; see `decode`.
    """
    images = np.empty((len(files), channels, size, size), dtype=np.uint8)
    for index, file in enumerate(Bar(files, "reading images", unit="image", disable=len(files) < 500)):
        images[index] = read_image(folder / file, size, channels)
    return images


def read_image(path: Path, size: int, channels: int) -> np.ndarray:
    """uint8 `[channels, size, size]` of one file, as in `read_images`, with the same errors."""
    square = np.asarray(ImageOps.fit(decode(path, channels), (size, size), method=Image.Resampling.BILINEAR))
    return square.reshape(size, size, channels).transpose(2, 0, 1)


def decode(path: Path, channels: int, upright: bool = True) -> Image.Image:
    """One file at its own size, in mode RGB (`channels` 3) or L (1). upright: apply EXIF rotation.

    Of 16 bits the upper 8 are used, as Pillow itself does for colour.

    Raises:
        RequestError: the file is truncated, not an image, too large, or holds floats or 32-bit integers.
    """
    try:
        with Image.open(path, formats=tuple(dict.fromkeys(formats().values()))) as image:
            image.load()
            turned = ImageOps.exif_transpose(image) if upright else image.copy()
            if "transparency" in turned.info and turned.mode == "P":
                turned = turned.convert("RGBA")  # otherwise Pillow warns
            levels = _levels(turned, image.format)
            converted = None if levels is None else levels.convert("RGB" if channels == 3 else "L")
    except Image.DecompressionBombError:
        raise RequestError(
            f"{path} has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller, or remove it"
        ) from None
    except Exception as error:  # decoders raise almost anything on damaged bytes
        raise RequestError(
            f"{path} cannot be read as an image ({type(error).__name__}: {error}); remove or replace it"
        ) from error
    if converted is None:
        raise RequestError(
            f"{path} holds {'floats' if turned.mode == 'F' else '32-bit integers'} (Pillow's mode {turned.mode}), whose"
            " range is unknown, allowed: 8 or 16 bits per channel; convert it, or remove it"
        )
    return converted


def _levels(image: Image.Image, file_format: str) -> Image.Image | None:
    """`image` with 8 bits per channel; None if the range of its values is unknown."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in SIXTEEN_BITS):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return None if image.mode in ("I", "F") else image
