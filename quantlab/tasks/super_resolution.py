"""Super-resolution: training patches, and PSNR and SSIM of whole images, compared with bicubic upsampling.

All images are decoded before a run starts and stay in memory as uint8, with their low-resolution versions: about 10 GB
for DIV2K at scale 2.
"""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.errors import RequestError
from quantlab.metrics.luminance import SSIM_WINDOW, luminance, luminance_metrics
from quantlab.progress import Bar
from quantlab.report.grids import labelled_rows
from quantlab.tasks.base import ImageTask
from quantlab.tasks.image_files import find_images
from quantlab.tasks.image_folder import decode
from quantlab.tasks.image_pairs import Bicubic, Pair, Tiles, centre_patches, pair, random_patches

DRAWN = 6  # test images in the figure, and ...
DETAIL = 64  # ... the side of the detail shown of each, in original pixels

# Columns of scikit-learn's two photos, 640 wide. The test strip crosses the middle of both subjects.
TRAIN_COLUMNS = (slice(0, 208), slice(352, 640))
VALIDATION_COLUMNS = slice(208, 256)
TEST_COLUMNS = slice(256, 352)
TEST_ROWS = (slice(0, 142), slice(142, 284), slice(284, 426))


class SuperResolution(ImageTask):
    """Original images and their bicubic downsampling: training, validation and test parts that share no pixel.

    A batch is `{"low": [N, 3, p, p], "high": [N, 3, scale p, scale p]}`, p = `patch_size`; float RGB in [0, 1] after
    `prepare`.
    """

    kind = "super_resolution"
    main_metric = "psnr_y"  # of `evaluate`; higher is better
    draws = True
    channels = 3
    classes = None

    def __init__(self, section: Any):
        super().__init__(section)
        self.scale: int = section.scale

    def originals(self) -> dict[str, list[tuple[str, Tensor]]]:
        """Name and uint8 `[3, H, W]` of the images of the "train", "validation" and "test" part. Raises
        RequestError as `check`.
        """
        raise NotImplementedError  # defined by every task

    @cached_property
    def _parts(self) -> dict[str, list[Pair]]:
        parts = self.originals()
        section, border = self.section, self.section.evaluation.border
        patch = f"the patch of {self.image_size} (task.patch_size {section.patch_size} x task.scale {self.scale})"
        self._refuse_smaller(
            parts["train"], self.image_size, "train", patch, "task.patch_size", lambda side: side // self.scale
        )
        around = SSIM_WINDOW + self.scale - 1  # up to scale - 1 rows of the original are dropped
        for part in ("validation", "test"):
            self._refuse_smaller(
                parts[part],
                around + 2 * border,
                part,
                f"the {around + 2 * border} that SSIM's window and task.evaluation.border {border} need",
                "task.evaluation.border",
                lambda side: (side - around) // 2,
            )
        return {part: [pair(image, self.scale) for _, image in images] for part, images in parts.items()}

    def _refuse_smaller(
        self,
        images: list[tuple[str, Tensor]],
        needed: int,
        part: str,
        what: str,
        key: str,
        fitting: Callable[[int], int],
    ) -> None:
        """Raises RequestError for images with a side below `needed`; fitting: smallest side -> a value of `key` that
        fits it.
        """
        small = [(name, image) for name, image in images if min(image.shape[1:]) < needed]
        if not small:
            return
        name, image = small[0]
        value = fitting(min(min(image.shape[1:]) for _, image in small))
        fix = f"type {key}={value}, or remove them" if value > 0 else "remove them"
        raise RequestError(
            f"task {self.name}: {len(small)} {part} images smaller than {what}, the first is {name} with "
            f"{image.shape[2]}x{image.shape[1]} pixels; {fix}"
        )

    def check(self) -> None:
        self.dataset()

    @cached_property
    def _fingerprint(self) -> str:
        shaping = self.section.model_dump(include={"scale", "patch_size", "augmentation"})
        digest = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode())
        for low, high in self._parts["train"]:
            digest.update(repr(tuple(high.shape)).encode())
            digest.update(low.contiguous().numpy())
            digest.update(high.contiguous().numpy())
        return digest.hexdigest()

    def dataset(self) -> Tiles:
        """Tiles with twice the side of a patch, or as large as the smallest training image allows."""
        pairs = self._parts["train"]
        smallest = min(min(low.shape[1:]) for low, _ in pairs)
        return Tiles(pairs, min(2 * self.section.patch_size, smallest), self.scale)

    def prepare(self, batch: dict[str, Tensor], train: bool) -> dict[str, Tensor]:
        augmentation, side = self.section.augmentation, self.section.patch_size
        if train:
            low, high = random_patches(batch["low"], batch["high"], side, augmentation.flips, augmentation.rotations)
        else:
            low, high = centre_patches(batch["low"], batch["high"], side)
        return {"low": as_input(low), "high": as_input(high)}

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, split: str, device: torch.device, progress: Callable[..., Iterable] | None = None
    ) -> dict[str, float]:
        """`psnr_y` (dB), `ssim` and `loss` (L1 in [0, 1], before rounding to 8 bits) of `model` on a part: means
        over whole images.
        """
        batches = list(self._batches_of_one_size(split))
        found: dict[str, list[Tensor]] = {"psnr_y": [], "ssim": [], "loss": []}
        with in_evaluation(model):
            for batch in progress(batches, f"{split} images") if progress else batches:
                low, high = (as_input(torch.stack(images).to(device)) for images in zip(*batch, strict=True))
                restored = model(low).float()
                measured = luminance_metrics(restored, high, self.section.evaluation.border)
                for name, values in (measured | {"loss": (restored - high).abs().mean(dim=(1, 2, 3))}).items():
                    found[name].append(values.cpu())
        return {name: torch.cat(values).mean().item() for name, values in found.items()}

    def _batches_of_one_size(self, split: str) -> Iterator[list[Pair]]:
        for _, same in itertools.groupby(self._parts[split], key=lambda one: one[0].shape):
            same = list(same)
            for start in range(0, len(same), self.section.evaluation.batch_size):
                yield same[start : start + self.section.evaluation.batch_size]

    def baseline(self, device: torch.device) -> dict[str, dict[str, float]]:
        return {"bicubic": self.evaluate(Bicubic(self.scale), "test", device)}

    def protocol(self) -> dict[str, Any]:
        """The data that metrics were measured on."""
        return {f"{name}_images": len(images) for name, images in self._parts.items()} | {
            "scale": self.scale,
            "border_pixels": self.section.evaluation.border,
            "luminance": "BT.601 (16 to 235)",
            "low_resolution": "bicubic with antialiasing (not MATLAB's bits)",
        }

    @torch.no_grad()
    def draw(self, models: dict[str, nn.Module], folder: Path, device: torch.device) -> None:
        """samples/super_resolution.png: the most detailed square of a few test images: bicubic, each model,
        original.
        """
        shown = self._parts["test"][:DRAWN]
        side = min(DETAIL, *(min(high.shape[1:]) for _, high in shown))
        columns = [most_detailed_square(high, side) for _, high in shown]
        rows = {}
        for label, model in ({f"bicubic x{self.scale}": Bicubic(self.scale)} | models).items():
            with in_evaluation(model):
                rows[label] = [
                    model(as_input(low[None].to(device)))[0][square]
                    for (low, _), square in zip(shown, columns, strict=True)
                ]
        rows["original"] = [as_input(high)[square] for (_, high), square in zip(shown, columns, strict=True)]
        pictures = {label: 2 * torch.stack(images).float().cpu().numpy() - 1 for label, images in rows.items()}
        labelled_rows(pictures, Path(folder) / "super_resolution.png", tile=3 * DETAIL)


class SamplePhotos(SuperResolution):
    """scikit-learn's two photos, China and a flower, 427 x 640 pixels, cut into strips of columns: train 0..207 and
    352..639, validation 208..255, test 256..351, which is cut into three images of 142 rows. Each piece is downsampled
    separately.
    """

    def originals(self) -> dict[str, list[tuple[str, Tensor]]]:
        from sklearn.datasets import load_sample_images

        bunch = load_sample_images()
        photos = [
            (Path(file).name, torch.from_numpy(image.transpose(2, 0, 1).copy()))
            for file, image in zip(bunch.filenames, bunch.images, strict=True)
        ]
        return {
            "train": [(name, photo[:, :, columns]) for name, photo in photos for columns in TRAIN_COLUMNS],
            "validation": [(name, photo[:, :, VALIDATION_COLUMNS]) for name, photo in photos],
            "test": [(name, photo[:, rows, TEST_COLUMNS]) for name, photo in photos for rows in TEST_ROWS],
        }


class PhotoFolders(SuperResolution):
    """Images in `data_dir`, `train_folder` for training and `test_folder` for testing: DIV2K as unpacked, or your own.

    The validation part, `validation_images` of the training images, is drawn by `split_seed` and never trained on.
    """

    def originals(self) -> dict[str, list[tuple[str, Tensor]]]:
        root, section = Path(self.section.data_dir).expanduser(), self.section
        for key in ("train_folder", "test_folder"):
            if not (root / getattr(section, key)).is_dir():
                raise RequestError(
                    f"data_dir {root}: there is no folder {getattr(section, key)}, allowed: a folder that holds"
                    f" {section.train_folder} and {section.test_folder}; give it with data_dir=PATH, or type"
                    f" task.{key}=NAME"
                )
        if (root / section.train_folder).resolve() == (root / section.test_folder).resolve():
            raise RequestError(
                f"task.test_folder: got {section.test_folder}, the folder that is trained on, allowed: another; type "
                "task.test_folder=NAME"
            )
        train, test = (find_images(root / folder) for folder in (section.train_folder, section.test_folder))
        order = np.random.default_rng(section.split_seed).permutation(len(train))
        if section.validation_images >= len(train):
            raise RequestError(
                f"task.validation_images: got {section.validation_images}, allowed: fewer than the {len(train)} images"
                f" in {root / section.train_folder}; type task.validation_images=1"
            )
        held, kept = np.sort(order[: section.validation_images]), np.sort(order[section.validation_images :])
        return {
            "train": read_all(root / section.train_folder, [train[index] for index in kept]),
            "validation": read_all(root / section.train_folder, [train[index] for index in held]),
            "test": read_all(root / section.test_folder, test),
        }


def read_all(folder: Path, files: list[Path]) -> list[tuple[str, Tensor]]:
    """Name and uint8 RGB `[3, H, W]` of each file. Raises RequestError for a damaged one, as `decode`."""

    def read(file: Path) -> tuple[str, Tensor]:
        return file.as_posix(), torch.from_numpy(np.array(decode(folder / file, channels=3)).transpose(2, 0, 1).copy())

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # decoders release the GIL
        return list(
            Bar(threads.map(read, files), "reading images", unit="image", total=len(files), disable=len(files) < 50)
        )


def as_input(images: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return images.to(torch.float32) / 255


def most_detailed_square(image: Tensor, side: int) -> tuple[slice, slice, slice]:
    """The square of `side` pixels in uint8 `[3, H, W]` whose luminance varies most, on a grid of half its side."""
    y = luminance(as_input(image)[None])
    windows = F.unfold(y, side, stride=max(side // 2, 1))  # [1, side * side, number of squares]
    across = (image.shape[2] - side) // max(side // 2, 1) + 1
    row, column = divmod(int(windows.var(dim=1).argmax()), across)
    top, left = row * max(side // 2, 1), column * max(side // 2, 1)
    return slice(None), slice(top, top + side), slice(left, left + side)


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode, restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
