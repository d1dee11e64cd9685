"""The file layouts of MNIST and CIFAR-10: written here in miniature, and the real ones where they are present."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from quantlab.errors import RequestError
from quantlab.tasks.datasets import load_cifar10, load_cifar100, load_mnist

DATA = Path(os.environ.get("QUANTLAB_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def present(name):
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"no {DATA / name} (set QUANTLAB_TEST_DATA)")


def write_mnist(folder, images, labels):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, *images.shape) + images.tobytes())
    (raw / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(labels)) + labels.tobytes())
    return raw


def write_cifar10(folder, images, labels):
    (folder / "cifar-10-batches-bin").mkdir()
    records = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1).astype(np.uint8)
    for number, part in enumerate(np.split(records, 5), start=1):
        (folder / "cifar-10-batches-bin" / f"data_batch_{number}.bin").write_bytes(part.tobytes())


def test_torchvision_layout_of_mnist(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    raw = write_mnist(tmp_path, images, np.array([7, 0, 9], dtype=np.uint8))
    read, labels = load_mnist(tmp_path, download=False)
    assert np.array_equal(read[:, 0], images) and labels.tolist() == [7, 0, 9]
    (raw / "train-images-idx3-ubyte").write_bytes((raw / "train-images-idx3-ubyte").read_bytes()[:-1])
    with pytest.raises(RequestError, match="cannot be read"):
        load_mnist(tmp_path, download=False)


def test_labels_that_do_not_fit_are_refused(tmp_path):
    np.savez(tmp_path / "mnist.npz", train_images=np.zeros((2, 28, 28), np.uint8), train_labels=np.array([3, 10]))
    with pytest.raises(RequestError, match="label 0 to 9"):
        load_mnist(tmp_path, download=False)


def test_binary_version_of_cifar100_has_the_fine_label_second(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    records = [bytes([coarse, fine]) + image.tobytes() for coarse, fine, image in zip((1, 2, 3), (99, 0, 41), images)]
    (folder / "test.bin").write_bytes(b"".join(records))
    read, labels = load_cifar100(tmp_path, download=False, split="test")
    assert np.array_equal(read, images) and labels.tolist() == [99, 0, 41]
    (folder / "test.bin").write_bytes(b"".join(records)[:-1])
    with pytest.raises(RequestError, match="a multiple of 3,074 bytes"):
        load_cifar100(tmp_path, download=False, split="test")
    (folder / "test.bin").write_bytes(bytes([1, 100]) + images[0].tobytes())
    with pytest.raises(RequestError, match="label 0 to 99"):
        load_cifar100(tmp_path, download=False, split="test")


def test_binary_version_of_cifar10(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    write_cifar10(tmp_path, images, np.arange(10))
    read, labels = load_cifar10(tmp_path, download=False)
    assert np.array_equal(read, images) and labels.tolist() == list(range(10))
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RequestError, match="data_batch_3.bin"):
        load_cifar10(tmp_path, download=False)


def test_pickles_that_are_not_the_published_ones_are_not_opened(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(b"cos\nmkdir\n(S'" + str(tmp_path / "executed").encode() + b"'\ntR.")
    with pytest.raises(RequestError, match="md5"):
        load_cifar10(tmp_path, download=False)
    assert not (tmp_path / "executed").exists()


def test_a_failed_download_says_where_and_what_instead(tmp_path, monkeypatch):
    import torchvision

    def offline(*args, **keys):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    with pytest.raises(RequestError, match="no route to host.*task.download=false"):
        load_mnist(tmp_path / "new", download=True)


@present("mnist.npz")
def test_real_mnist():
    images, labels = load_mnist(DATA, download=False)
    assert images.shape == (60000, 1, 28, 28)
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    # The mean and the standard deviation that every MNIST tutorial normalizes with.
    assert [images.mean() / 255, images.std() / 255] == pytest.approx([0.1307, 0.3081], abs=1e-4)


@present("cifar10_jpeg_tiny.npz")
def test_real_cifar10_tiny(tmp_path):
    (tmp_path / "cifar10_jpeg_tiny.npz").symlink_to(DATA / "cifar10_jpeg_tiny.npz")
    images, labels = load_cifar10(tmp_path, download=False)
    assert images.shape == (1000, 3, 32, 32) and np.bincount(labels).tolist() == [100] * 10
    assert images.mean(axis=(0, 2, 3)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.02)
