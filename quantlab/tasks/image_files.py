"""Which files under a folder are images, and their classes. Skipped files are reported, and no class gets lost.

An image is a file with an extension (upper or lower case) for which Pillow has a decoder. Excluded are PostScript,
which Pillow would pass to Ghostscript whatever its content, and formats that Pillow only identifies (see `NO_DECODER`).
"""

import functools
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from quantlab.errors import RequestError

log = logging.getLogger("quantlab")

# Identified by Pillow but not decoded by itself. IPTC and MPEG are not images.
NO_DECODER = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "IPTC", "MPEG")
COMMON = ".png .jpg .jpeg .jfif .webp .avif .gif .bmp .tif .jp2 .ppm"  # for messages
# in run directories, whose figures are not data even if data_dir also contains runs
RUN = ".hydra"
CLUTTER = ("thumbs.db", "desktop.ini", "icon\r")  # left by file managers, besides hidden files


@functools.cache
def formats() -> dict[str, str]:
    """Pillow's format by file extension (lower case, with its dot), for all formats that this Pillow decodes."""
    Image.init()
    return {
        ending: name
        for ending, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in NO_DECODER
    }


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in formats()


def find_images(folder: Path) -> list[Path]:
    """All images under `folder`, at any depth, as sorted paths relative to it. Hidden files and folders and run
    directories are skipped, links to folders are followed; other files are skipped with a log line.

    Raises:
        RequestError: `folder` does not exist, is not a directory, cannot be read, or holds fewer than two images; a
            file in it is unsound, see `require_sound_files`.
    """
    if not folder.is_dir():
        state = "is not a directory" if folder.exists() else "does not exist"
        raise RequestError(f"data_dir {folder} {state}; give a folder of images with data_dir=PATH")
    files = [path.relative_to(folder) for path in _visible_files(folder)]
    found = sorted((file for file in files if is_image(file.name)), key=Path.as_posix)
    others = sorted((file for file in files if not is_image(file.name)), key=Path.as_posix)
    require_sound_files(
        [folder / file for file in found] + [folder / file for file in others if (folder / file).is_symlink()]
    )
    if len(found) < 2:
        held = f" It holds {_kinds(others)}: convert them, or give" if others else " Give"
        raise RequestError(
            f"data_dir {folder} holds {len(found) or 'no'} image{'s'[: len(found) != 1]}; at least 2 are needed, of any"
            f" kind that Pillow reads ({COMMON}, ...).{held} another folder with data_dir=PATH"
        )
    if others:
        log.info(
            "%s: skipped files that Pillow cannot read as images, %s; the first is %s",
            folder,
            _kinds(others),
            others[0],
        )
    return found


def require_sound_files(files: Iterable[Path]) -> None:
    """Raises RequestError for files that are empty, unreadable, not regular files, or broken links. Does not read their
    content.
    """
    unsound = [(file, problem) for file in files if (problem := _problem(file))]
    if unsound:
        file, problem = unsound[0]
        others = f" ({len(unsound) - 1} more such files)" if len(unsound) > 1 else ""
        raise RequestError(f"{file} {problem}; remove or replace it{others}")


def class_labels(folder: Path, files: list[Path]) -> list[int] | None:
    """The index of each file's first-level folder in alphabetical order; None unless there are at least two and all
    files are in one.

    An image next to the class folders has no class, so a single stray file means that the folders are not labels.

    Raises:
        RequestError: the folders are labels, but one of them holds no image, so that its class would get lost.
    """
    folders = [file.parts[0] if len(file.parts) > 1 else None for file in files]
    names = sorted({name for name in folders if name is not None})
    if None in folders:
        return None
    without_images = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in names
    )
    lacking = [name for name in without_images if not _holds_runs(folder / name)]
    if lacking:
        listed = [f"'{name}' ({_kinds(list(_visible_files(folder / name))) or 'empty'})" for name in lacking[:5]]
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise RequestError(
            f"data_dir {folder}: there is no image in its folder {', '.join(listed)}{more}, allowed: in every class"
            f" folder images that Pillow reads ({COMMON}, ...); add or convert some, or remove the folder"
        )
    return None if len(names) < 2 else [names.index(name) for name in folders]


def _holds_runs(folder: Path) -> bool:
    """Whether runs are written there: it contains one, or, before the first one has started, only nested folders."""
    inside = list(folder.rglob("*"))
    return any(path.name == RUN for path in inside) or (bool(inside) and all(path.is_dir() for path in inside))


def _visible_files(folder: Path) -> Iterable[Path]:
    """Raises RequestError for a folder that cannot be listed."""

    def refuse(error: OSError) -> None:
        raise RequestError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from error

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if RUN in folders and Path(parent) != folder:
            folders.clear()
            continue
        here = Path(parent).resolve()  # a link to a parent folder would never end
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (here / name).resolve() not in (here, *here.parents)
        ]
        yield from (Path(parent, name) for name in names if not name.startswith(".") and name.lower() not in CLUTTER)


def _kinds(files: list[Path]) -> str:
    """`12 .heic, 1 .txt`: the number of files by extension, the most frequent first."""
    counted = Counter(file.suffix.lower() or file.name for file in files).most_common()
    more = f" and {len(counted) - 5} other kinds" if len(counted) > 5 else ""
    return ", ".join(f"{count} {ending}" for ending, count in counted[:5]) + more


def _problem(file: Path) -> str | None:
    try:
        found = os.stat(file)
    except OSError as error:
        target = f"is a link to {os.readlink(file)}: " if file.is_symlink() else "cannot be read: "
        return f"{target}{error.strerror}"
    if stat.S_ISDIR(found.st_mode):
        return None
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if found.st_size == 0:
        return "is empty (0 bytes)"
    return None if os.access(file, os.R_OK) else "cannot be read: permission denied"
