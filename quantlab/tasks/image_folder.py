"""A folder of images as an array: which files, which labels, and one square size for all of them."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from quantlab.errors import RequestError
from quantlab.progress import Bar

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

# Named, because Pillow would otherwise look at a file's first bytes and start Ghostscript on a PostScript "photo.png".
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")


def find_images(folder: Path) -> list[Path]:
    """All images under `folder`, at any depth, as sorted paths relative to it. Hidden files and folders are skipped, links
    to folders are followed.

    Raises:
        RequestError: `folder` does not exist, is not a directory, cannot be read, or holds fewer than two images.
    """
    if not folder.is_dir():
        state = "is not a directory" if folder.exists() else "does not exist"
        raise RequestError(f"data_dir {folder} {state}; give a folder of images with data_dir=PATH")

    def refuse(error: OSError) -> None:
        raise RequestError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from error

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(parent).resolve()       # a link to a folder above would go round for ever
        folders[:] = [name for name in folders if not name.startswith(".") and (here / name).resolve() not in (here, *here.parents)]
        found += [
            (Path(parent) / name).relative_to(folder)
            for name in names
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    if len(found) < 2:
        raise RequestError(
            f"data_dir {folder} holds {len(found) or 'no'} image{'s'[: len(found) != 1]};"
            f" at least 2 are needed ({' '.join(EXTENSIONS)}): give another folder with data_dir=PATH"
        )
    return sorted(found, key=lambda path: path.as_posix())


def folder_labels(files: list[Path]) -> list[int] | None:
    """The index of each file's first-level folder in alphabetical order; None unless there are two and all lie in one.

    An image beside the class folders has no class, so that one stray file means that the folders are no labels.
    """
    folders = [path.parts[0] if len(path.parts) > 1 else None for path in files]
    names = sorted({name for name in folders if name is not None})
    if None in folders or len(names) < 2:
        return None
    return [names.index(name) for name in folders]


def read_images(folder: Path, files: list[Path], size: int, channels: int) -> np.ndarray:
    """uint8 `[N, channels, size, size]`: the shorter side resized to `size` (bilinear, antialiased), centre-cropped.

    `channels` 3 gives RGB, 1 luminance; rotations noted by a camera are applied, transparency is dropped.

    Raises:
        RequestError: a file is truncated, is no image, or has more than 8 bits per channel.
    """
    images = np.empty((len(files), channels, size, size), dtype=np.uint8)
    for index, file in enumerate(Bar(files, "reading images", unit="image", disable=len(files) < 500)):
        images[index] = read_image(folder / file, size, channels)
    return images


def read_image(path: Path, size: int, channels: int) -> np.ndarray:
    """uint8 `[channels, size, size]` of one file, as `read_images` makes it, and with its errors."""
    square = np.asarray(ImageOps.fit(decode(path, channels), (size, size), method=Image.Resampling.BILINEAR))
    return square.reshape(size, size, channels).transpose(2, 0, 1)


def decode(path: Path, channels: int) -> Image.Image:
    """One file at its own size, in mode RGB (`channels` 3) or L (1), with the errors of `read_images`."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            mode = image.mode
            upright = ImageOps.exif_transpose(image).convert("RGB" if channels == 3 else "L")
    except Exception as error:  # a decoder fed with damaged bytes raises almost anything
        raise RequestError(
            f"{path} cannot be read as an image ({type(error).__name__}: {error}); remove or replace it"
        ) from error
    if mode == "F" or mode.startswith("I"):
        raise RequestError(f"{path} has more than 8 bits per channel (mode {mode}); convert it to 8 bits or remove it")
    return upright
