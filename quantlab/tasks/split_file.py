"""A file that divides a training split into training and validation images: NAS-Bench-201's `cifar-split.txt`.

That file (github.com/D-X-Y/AutoDL-Projects, configs/nas-benchmark, MIT licence) is JSON: `{"train": ["int", ["0", "5",
...]], "valid": ["int", ["1", ...]]}`. Plain lists of integers are read as well. Numbers are indices in the task's order
of images: torchvision's for its files, otherwise a packed file's own order.
"""

from pathlib import Path
from typing import Any

import numpy as np

from quantlab.errors import RequestError
from quantlab.run.parsing import read_json

PARTS = ("train", "valid")


def read_split(path: str | Path, key: str = "task.split_file") -> tuple[np.ndarray, np.ndarray]:
    """Int64 indices of the training and of the validation images, in the file's order.

    Raises: RequestError, under the name `key`, for a file that is not a split, or whose lists are not
    disjoint.
    """
    file = Path(path)
    try:
        content = read_json(file)
    except OSError:
        raise RequestError(
            f"{key}: no such file: {file}; NAS-Bench-201's is configs/nas-benchmark/cifar-split.txt of "
            f"github.com/D-X-Y/AutoDL-Projects; for a random split type {key}=null"
        ) from None
    except ValueError:
        raise RequestError(f'{key}: {file} is not JSON, allowed: {{"train": [0, 2, ...], "valid": [1, ...]}}') from None
    train, valid = (_numbers(content, part, f"{key}: {file}") for part in PARTS)
    both = np.concatenate([train, valid])
    if both.min() < 0:
        raise RequestError(
            f"{key}: {file} names image {both.min()}, allowed: from 0; type {key}=null for a random split"
        )
    if len(np.unique(both)) < len(both):
        raise RequestError(
            f"{key}: {file} names an image twice, allowed: train and valid without an image in common; type {key}=null"
            " for a random split"
        )
    return train, valid


def require_images(
    split: tuple[np.ndarray, np.ndarray], images: int, path: str | Path, key: str = "task.split_file"
) -> None:
    """Raises RequestError, under the name `key`, for a split with indices beyond the last image."""
    last = max(part.max() for part in split)
    if last >= images:
        raise RequestError(
            f"{key}: {path} names image {last}, allowed: up to {images - 1}, the last of the training split; type"
            f" {key}=null for a random split"
        )


def _whole(value: Any) -> int:
    if isinstance(value, (float, bool)):  # int() would cut 3.7 to 3
        raise ValueError(f"{value!r}")
    return int(value)


def _numbers(content: Any, part: str, what: str) -> np.ndarray:
    values = content.get(part) if isinstance(content, dict) else None
    if isinstance(values, list) and len(values) == 2 and values[0] == "int":
        values = values[1]
    try:
        found = np.array([_whole(value) for value in values or ()], dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(
            f'{what} holds no list of numbers "{part}": got {error}, allowed: '
            '{"train": [0, 2, ...], "valid": [1, ...]}'
        ) from None
    if not len(found):
        raise RequestError(
            f'{what} holds no list of numbers "{part}", allowed: {{"train": [0, 2, ...], "valid": [1, ...]}}'
        )
    return found
