"""Known data sets as arrays: uint8 images `[N, C, H, W]` and int64 labels `[N]` of the training or the test split.

Digits come with scikit-learn. MNIST, CIFAR-10 and CIFAR-100 are searched in a directory, in torchvision's layout or
packed in one `.npz`; the path may also be the data's own directory or file. Nothing pickled is loaded, with one
exception, which is verified first: see `_cifar_python`.
"""

import io
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from quantlab.errors import RequestError
from quantlab.progress import Bar
from quantlab.run.parsing import ParseError, read_bounded

log = logging.getLogger("quantlab")

MOST_BYTES = 1 << 30  # of one binary file
Arrays = tuple[np.ndarray, np.ndarray]

# the binary version
CIFAR10_FILES = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}


def load_digits() -> Arrays:
    """scikit-learn's digits: `[1797, 1, 8, 8]`, from 17 levels 0..16 to `rint(level * 255 / 16)`.

    `rint` rounds halves to even, which only affects level 8: 127.5 becomes 128.
    """
    from sklearn import datasets

    levels, labels = datasets.load_digits(return_X_y=True)
    return np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8), labels.astype(np.int64)


def load_mnist(data_dir: Path, download: bool, split: str = "train") -> Arrays:
    """MNIST's split "train" `[60000, 1, 28, 28]` or "test" `[10000, ...]`, from torchvision's files or from `mnist.npz`
    (`train_images`, ...).

    Raises:
        RequestError: no such file and `download` is false, the download failed, or a file is damaged.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    packed = partial(_mnist_packed, split=split)
    sources = {
        f"MNIST/raw/{prefix}-images-idx3-ubyte": _mnist_torchvision,
        **dict.fromkeys(_packed_files(data_dir, "mnist.npz"), packed),
    }
    if download and _first(data_dir, sources) is None:
        _download("MNIST", "12 MB", data_dir)
    return _read("MNIST", split, data_dir, sources)


def load_cifar10(data_dir: Path, download: bool, split: str = "train") -> Arrays:
    """CIFAR-10's split "train" `[50000, 3, 32, 32]` or "test" `[10000, ...]`, from the first of these in `data_dir`.

    `cifar-10-batches-bin` (the binary version), `cifar-10-batches-py` (torchvision's), `cifar10_jpeg.npz`, then other
    `cifar10_jpeg*.npz` by name (concatenated JPEG files in `train_jpeg`, with boundaries in `train_offsets`, likewise
    for `test_`; lossy, so compare results only within the same file).

    Raises:
        RequestError: no such file and `download` is false, the download failed, or a file is damaged.
    """
    sources = {
        "cifar-10-batches-bin": partial(_cifar_binary, files=CIFAR10_FILES[split], label_bytes=1),
        "cifar-10-batches-py": partial(_cifar_python, name="CIFAR10", split=split),
        **dict.fromkeys(_packed_files(data_dir, "cifar10_jpeg*.npz"), partial(_cifar10_packed, split=split)),
    }
    if download and _first(data_dir, sources) is None:
        _download("CIFAR10", "170 MB", data_dir)
    return _read("CIFAR-10", split, data_dir, sources)


def load_cifar100(data_dir: Path, download: bool, split: str = "train") -> Arrays:
    """CIFAR-100's split "train" `[50000, 3, 32, 32]` or "test" `[10000, ...]` with its 100 fine labels, from
    `cifar-100-binary` (the binary version) or `cifar-100-python` (torchvision's) in `data_dir`.

    Raises:
        RequestError: no such folder and `download` is false, the download failed, or a file is damaged.
    """
    sources = {
        "cifar-100-binary": partial(_cifar_binary, files=[f"{split}.bin"], label_bytes=2),
        "cifar-100-python": partial(_cifar_python, name="CIFAR100", split=split),
    }
    if download and _first(data_dir, sources) is None:
        _download("CIFAR100", "169 MB", data_dir)
    return _read("CIFAR-100", split, data_dir, sources, classes=100)


def read_npz(path: Path, wanted: dict[str, str]) -> list[np.ndarray]:
    """The arrays of an `.npz` under the names in `wanted` (name: what it should be, for messages), in that order.

    Raises:
        RequestError: not an `.npz`, truncated, encrypted, an array is missing, or holds Python objects (never
            unpickled).
    """
    what, found = f"{path}", []
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            for name in wanted:
                what = f"{path}: {name}"
                if name in names:
                    found.append(archive[name])
    except Exception as error:  # numpy and zipfile raise almost anything on damaged bytes
        raise RequestError(f"{what} cannot be read ({_line(error)}); remove or replace the file") from error
    missing = [name for name in wanted if name not in names]
    if missing:
        needed = ", ".join(f"{name} ({meaning})" for name, meaning in wanted.items())
        raise RequestError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(names) or 'nothing'}, needed: {needed}"
        )
    return found


def _packed_files(data_dir: Path, pattern: str) -> list[str]:
    """Names of the files that match `pattern`, the one without `*` first; `pattern` itself if there are none.
    `data_dir` may be a file.
    """
    if data_dir.is_file():
        return [data_dir.name]
    plain = pattern.replace("*", "")
    return sorted((file.name for file in data_dir.glob(pattern)), key=lambda name: (name != plain, name)) or [pattern]


def _place(data_dir: Path, name: str) -> Path | None:
    """The path of the source `name`, either inside `data_dir` or `data_dir` itself or a parent of it; None if not
    found.
    """
    whole, parts = data_dir.absolute(), Path(name).parts
    ways = (
        whole.joinpath(*parts[cut:])
        for cut in range(len(parts) + 1)
        if whole.parts[len(whole.parts) - cut :] == parts[:cut]
    )
    return next((path for path in ways if path.exists()), None)


def _first(data_dir: Path, sources: dict) -> str | None:
    return next((name for name in sources if _place(data_dir, name)), None)


def _read(
    title: str, split: str, data_dir: Path, sources: dict[str, Callable[[Path], Arrays]], classes: int = 10
) -> Arrays:
    there = [name for name in sources if _place(data_dir, name)]
    if not there:
        where = f"in data_dir {data_dir}" + ("" if data_dir.is_dir() else ", which does not exist")
        raise RequestError(
            f"{title} was not found {where}; looked for {', '.join(sources)}."
            " Give the right folder with data_dir=PATH, or fetch it: task.download=true"
        )
    path = _place(data_dir, there[0])
    if not (path.is_file() or path.is_dir()):
        raise RequestError(f"{path} is not a regular file; remove or replace it")
    images, labels = sources[there[0]](path)
    _require(path, images.size, "images of at least one pixel")
    _require(path, len(images) == len(labels), f"as many labels as its {len(images)} images, not {len(labels)}")
    if len(wrong := np.flatnonzero(~np.isin(labels, range(classes)))):
        raise RequestError(
            f"{path}: {split} image {wrong[0]} has the label {labels[wrong[0]]}, allowed: 0 to {classes - 1}; correct"
            " or replace the file"
        )
    others = f" (there are also {', '.join(there[1:])}: data_dir={data_dir / there[1]} takes that)" if there[1:] else ""
    log.info("%s: %d %s images from %s%s", title, len(images), {"train": "training"}.get(split, split), path, others)
    return images, labels


def _download(name: str, size: str, data_dir: Path) -> None:
    from torchvision import datasets

    log.info("downloading %s (%s) to %s", name, size, data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(data_dir / f".{name}.lock"):
            getattr(datasets, name)(str(data_dir), download=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise RequestError(
            f"{name} could not be downloaded to {data_dir} ({_line(error)});"
            " check the connection and the folder, or put the files there and leave task.download=false"
        ) from error


def _mnist_packed(path: Path, split: str) -> Arrays:
    wanted = {f"{split}_images": "uint8 [N, 28, 28]", f"{split}_labels": "integers [N]"}
    images, labels = read_npz(path, wanted)
    sound = images.dtype == np.uint8 and images.ndim == 3 and images.size
    _require_array(path, f"{split}_images", images, sound, "uint8 [N, 28, 28]")
    return images[:, None], _whole(path, f"{split}_labels", labels, len(images))


def _mnist_torchvision(path: Path) -> Arrays:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    labels_path = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    try:
        images, labels = read_image_file(str(path)), read_label_file(str(labels_path))
    except Exception as error:  # torchvision's reader does not validate the bytes
        raise RequestError(
            f"{path} or {labels_path.name} cannot be read ({_line(error)}); remove {path.parent} and fetch it again:"
            " task.download=true"
        ) from error
    return images.numpy()[:, None], labels.numpy()


def _cifar_binary(folder: Path, files: list[str], label_bytes: int) -> Arrays:
    """Files of records: the label in the last of `label_bytes` (CIFAR-100 stores the coarse label before it), then 3
    planes of 32x32.
    """
    records, size = [], label_bytes + 3072
    for name in files:
        path = folder / name
        try:
            content = read_bounded(path, MOST_BYTES)
        except (OSError, ParseError) as error:
            raise RequestError(f"{path} cannot be read ({_line(error)}); unpack the archive again") from error
        _require(path, content and len(content) % size == 0, f"a multiple of {size:,} bytes")
        records.append(np.frombuffer(content, np.uint8).reshape(-1, size))
    table = np.concatenate(records)
    return table[:, label_bytes:].reshape(-1, 3, 32, 32), table[:, label_bytes - 1].astype(np.int64)


def _cifar_python(folder: Path, name: str, split: str) -> Arrays:
    """torchvision's copy is a set of pickle files. Its class compares each file's md5 with the published one before
    unpickling any (`_check_integrity`), so that only the authors' published bytes are ever loaded.
    """
    from torchvision import datasets

    try:
        data = getattr(datasets, name)(str(folder.parent), train=split == "train", download=False)
    except (RuntimeError, OSError) as error:
        raise RequestError(
            f"{folder} is incomplete or damaged (a file's md5 is not the published one);"
            " remove it and fetch it again: task.download=true"
        ) from error
    return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), np.array(data.targets, dtype=np.int64)


def _cifar10_packed(path: Path, split: str) -> Arrays:
    wanted = {
        f"{split}_jpeg": "uint8 [bytes]",
        f"{split}_offsets": "integers [N + 1]",
        f"{split}_labels": "integers [N]",
    }
    content, offsets, labels = read_npz(path, wanted)
    sound = content.dtype == np.uint8 and content.ndim == 1
    _require_array(path, f"{split}_jpeg", content, sound, "uint8 [bytes]")
    labels = _whole(path, f"{split}_labels", labels)
    offsets = _whole(path, f"{split}_offsets", offsets, len(labels) + 1)
    images = np.empty((len(labels), 3, 32, 32), dtype=np.uint8)
    for index in Bar(range(len(labels)), f"decoding {path.name}", unit="image", disable=len(labels) < 5000):
        try:
            encoded = io.BytesIO(content[offsets[index] : offsets[index + 1]])
            with Image.open(encoded, formats=("JPEG",)) as image:
                images[index] = np.asarray(image.convert("RGB")).reshape(32, 32, 3).transpose(2, 0, 1)
        except Exception as error:  # decoders raise almost anything on damaged bytes
            raise RequestError(
                f"{path}: {split} image {index} cannot be decoded ({_line(error)}); replace the file"
            ) from error
    return images, labels


def _whole(path: Path, name: str, values: np.ndarray, count: int | None = None) -> np.ndarray:
    """`values` as int64 `[count]`; floats are accepted if they are whole numbers. Raises RequestError otherwise, and
    for another shape.
    """
    # NaN is not equal to itself
    fractions = values[values != np.rint(values)] if values.dtype.kind == "f" else np.empty(0)
    whole = values.dtype.kind in "iuf" and not fractions.size and np.isfinite(values).all()
    holds = whole and values.ndim == 1 and count in (None, len(values))
    but = f", not {fractions[0]}" if fractions.size else ""
    _require_array(path, name, values, holds, f"integers [{'N' if count is None else count}]{but}")
    return values.astype(np.int64)


def _require_array(path: Path, name: str, got: np.ndarray, holds: object, allowed: str) -> None:
    if not holds:
        raise RequestError(
            f"{path}: {name} is {got.dtype} {list(got.shape)}, allowed: {allowed}; correct or replace the file"
        )


def _require(path: Path, holds: object, expected: object) -> None:
    if not holds:
        raise RequestError(f"{path} does not hold what it should ({expected}); remove or replace it")


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")
