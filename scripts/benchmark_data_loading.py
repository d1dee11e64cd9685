"""The share of a training step spent waiting for data: data sets in memory, and a folder of JPEG files, by number of
loader processes.

    python scripts/benchmark_data_loading.py                 # a table on stdout, two minutes on two cores

A step trains a ResNet-20 on a batch as the trainer does: the DataLoader of the task's part, then augmentation and the
update on the device. The images are synthetic, with the number and sizes of the data sets that they stand for.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from quantlab.models.resnet_cifar import CifarResNet
from quantlab.tasks.classification import Cifar10
from quantlab.tasks.classification_folder import ImageFolder

COMMON = {
    "validation_fraction": 0.1,
    "split_seed": 0,
    "label_smoothing": 0.0,
    "normalization": SimpleNamespace(mean=[0.5] * 3, std=[0.25] * 3),
    "data_dir": None,
    "download": False,
}


class MadeUpCifar10(Cifar10):
    """Data with CIFAR-10's shapes, without its files."""

    def _load(self):
        generator = np.random.default_rng(0)
        return generator.integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8), generator.integers(0, 10, 50_000)

    def _load_test(self):
        images, labels = self._load()
        return images[:100], labels[:100]


def in_memory() -> Cifar10:
    return MadeUpCifar10(
        SimpleNamespace(
            name="cifar10",
            image_size=32,
            evaluation=SimpleNamespace(batch_size=500),
            augmentation=SimpleNamespace(crop_padding=4, horizontal_flip=True),
            **COMMON,
        )
    )


def folder(root: Path, images: int, image_size: int) -> ImageFolder:
    """JPEG files of ImageNet's typical size, 500x375, as smooth as photographs."""
    generator = np.random.default_rng(0)
    for index in range(images):
        path = root / f"class{index % 10}" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        small = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    augmentation = SimpleNamespace(scale=[0.08, 1.0], ratio=[0.75, 1.3333], horizontal_flip=True)
    return ImageFolder(
        SimpleNamespace(
            name="image_folder",
            image_size=image_size,
            decode_size=image_size * 8 // 7,
            channels=3,
            test_fraction=0.1,
            augmentation=augmentation,
            evaluation=SimpleNamespace(batch_size=500),
            **COMMON | {"data_dir": str(root)},
        )
    )


def measure(task, batch_size: int, workers: int, steps: int) -> tuple[float, float]:
    """Seconds per step, and of its wait for data, without the first steps, during which the processes start."""
    torch.manual_seed(0)
    model = CifarResNet(channels=3, classes=10, depth=20, width=16, final_batch_norm=True).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    part, skipped = task.dataset(), 5
    draws = np.random.default_rng(0)
    batches = [draws.integers(0, len(part), batch_size).tolist() for _ in range(skipped + steps)]
    waited, started = [], time.perf_counter()
    for batch in DataLoader(part, batch_sampler=batches, collate_fn=task.collate, num_workers=workers):
        waited.append(time.perf_counter() - started)
        model.training_loss(task.prepare(batch, train=True)).backward()
        optimizer.step()
        optimizer.zero_grad()
        started = time.perf_counter()
        if len(waited) == skipped:
            begun = started
    return (started - begun) / steps, sum(waited[skipped:]) / steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--image-size", type=int, default=64, help="of the folder's images, which are decoded a seventh larger"
    )
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write FILE.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = ["| images | loading processes | a step (ms) | waiting for data (ms) | share |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as place:
        tasks = {
            "in memory, 32x32": in_memory(),
            f"JPEG files, {options.image_size}x{options.image_size}": folder(
                Path(place), options.files, options.image_size
            ),
        }
        for name, task in tasks.items():
            for workers in (0, 1, 2):
                print(f"{name}, {workers} ...", file=sys.stderr, flush=True)
                step, wait = measure(task, options.batch, workers, options.steps)
                lines.append(
                    f"| {name} | {workers} | {1000 * step:.1f} | {1000 * wait:.1f} | {100 * wait / step:.1f} % |"
                )
    text = (
        f"# Waiting for data\n\n`python scripts/benchmark_data_loading.py {' '.join(sys.argv[1:])}`: ResNet-20, batch"
        f" {options.batch}, {options.steps} steps each, {options.threads} thread(s), {platform.machine()},"
        f" {os.cpu_count()} cores, torch {torch.__version__}.\n\n" + "\n".join(lines) + "\n"
    )
    print(text)
    if options.output:
        options.output.with_suffix(".md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
