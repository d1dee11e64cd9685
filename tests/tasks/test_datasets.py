"""The file layouts of MNIST and CIFAR-10: written here in miniature, and the real ones where they are present."""

import io
import logging
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantlab.errors import RequestError
from quantlab.tasks.datasets import load_cifar10, load_cifar100, load_mnist
from quantlab.tasks.split_file import read_split

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
    with pytest.raises(RequestError, match="image 1 has the label 10, allowed: 0 to 9"):
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
    with pytest.raises(RequestError, match="image 0 has the label 100, allowed: 0 to 99"):
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


def packed_cifar10(path, colour, side=32, **arrays):
    """Two training images of one colour."""
    written = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(written, "PNG" if "png" in arrays else "JPEG")
    one = np.frombuffer(written.getvalue(), np.uint8)
    content = {
        "train_jpeg": np.concatenate([one, one]),
        "train_offsets": np.array([0, len(one), 2 * len(one)]),
        "train_labels": np.array([3, 9]),
    }
    np.savez(path, **(content | arrays))
    return path


def test_any_packed_cifar10_is_taken_in_a_fixed_order_and_the_others_are_said(tmp_path, caplog):
    def taken(data_dir):
        return load_cifar10(data_dir, download=False)[0][0, :, 0, 0].tolist()

    packed_cifar10(tmp_path / "cifar10_jpeg_tiny.npz", (0, 0, 0))
    assert taken(tmp_path) == [0, 0, 0]
    best = packed_cifar10(tmp_path / "cifar10_jpeg_q90.npz", (90, 90, 90))
    with caplog.at_level(logging.INFO, logger="quantlab"):
        assert taken(tmp_path) == [90, 90, 90]
    assert (
        f"there are also cifar10_jpeg_tiny.npz: data_dir={tmp_path / 'cifar10_jpeg_tiny.npz'} takes that" in caplog.text
    )
    packed_cifar10(tmp_path / "cifar10_jpeg.npz", (200, 200, 200))
    assert taken(tmp_path) == [200, 200, 200]
    assert taken(best) == [90, 90, 90]  # data_dir may be the file itself, under any name
    assert taken(best.rename(tmp_path / "mine.npz")) == [90, 90, 90]


def test_data_dir_may_be_the_folder_of_the_data_itself(tmp_path, monkeypatch):
    images = np.zeros((10, 3, 32, 32), np.uint8)
    write_cifar10(tmp_path, images, np.arange(10))
    raw = write_mnist(tmp_path, np.zeros((3, 28, 28), np.uint8), np.array([7, 0, 9], dtype=np.uint8))
    assert load_cifar10(tmp_path / "cifar-10-batches-bin", download=False)[1].tolist() == list(range(10))
    assert (
        load_mnist(raw, download=False)[1].tolist() == load_mnist(raw.parent, download=False)[1].tolist() == [7, 0, 9]
    )
    monkeypatch.chdir(raw)
    assert load_mnist(Path("."), download=False)[1].tolist() == [7, 0, 9]


MNIST = {"train_images": np.zeros((2, 28, 28), np.uint8), "train_labels": np.array([3, 9])}


@pytest.mark.parametrize(
    "arrays, says",
    [
        (
            {"train_labels": np.array(["3", "9"])},
            r"mnist.npz: train_labels is <U1 \[2\], allowed: integers \[2\]; correct or replace the file",
        ),
        ({"train_labels": np.array([3, 2.5])}, r"train_labels is float64 \[2\], allowed: integers \[2\], not 2.5"),
        ({"train_labels": np.array([3, np.nan])}, "not nan"),
        ({"train_labels": np.array([3, np.inf])}, "train_labels is float64"),
        ({"train_labels": np.array([[3, 9]])}, r"train_labels is int64 \[1, 2\]"),
        ({"train_labels": np.array([3, 9, 1])}, r"train_labels is int64 \[3\], allowed: integers \[2\]"),
        (
            {"train_images": np.zeros((2, 0, 0), np.uint8)},
            r"train_images is uint8 \[2, 0, 0\], allowed: uint8 \[N, 28, 28\]",
        ),
        ({"train_images": np.zeros((2, 28, 28))}, "train_images is float64"),
        ({"train_images": np.zeros((2, 784), np.uint8)}, "train_images is uint8"),
        ({"train_images": np.array([None, None], dtype=object)}, "mnist.npz: train_images cannot be read"),
    ],
)
def test_arrays_that_do_not_do_are_named(arrays, says, tmp_path):
    np.savez(tmp_path / "mnist.npz", **(MNIST | arrays))
    with pytest.raises(RequestError, match=says) as caught:
        load_mnist(tmp_path, download=False)
    assert "\n" not in str(caught.value)


def test_labels_that_are_whole_floats_are_taken(tmp_path):
    np.savez(tmp_path / "mnist.npz", **(MNIST | {"train_labels": np.array([3.0, 9.0])}))
    labels = load_mnist(tmp_path, download=False)[1]
    assert labels.tolist() == [3, 9] and labels.dtype == np.int64


@pytest.mark.parametrize(
    "arrays, says",
    [
        ({"train_offsets": np.array([0.5, 1, 2])}, "train_offsets is float64"),
        ({"train_offsets": np.array([0, 1])}, r"train_offsets is int64 \[2\], allowed: integers \[3\]"),
        ({"train_jpeg": np.zeros(9, np.int64)}, r"train_jpeg is int64 \[9\], allowed: uint8"),
        ({"train_offsets": np.array([0, 0, 9])}, "train image 0 cannot be decoded"),
        ({"side": 1}, "train image 0 cannot be decoded"),  # one pixel must not be spread over the image
    ],
)
def test_packed_images_that_do_not_do_are_named(arrays, says, tmp_path):
    packed_cifar10(tmp_path / "cifar10_jpeg.npz", (9, 9, 9), **arrays)
    with pytest.raises(RequestError, match=says):
        load_cifar10(tmp_path, download=False)


def test_archives_that_are_cut_encrypted_or_flipped_are_one_line(tmp_path):
    path = tmp_path / "mnist.npz"
    np.savez_compressed(
        path, **(MNIST | {"train_images": np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)})
    )
    whole = path.read_bytes()
    encrypted = bytearray(whole)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the bit that says so, of the first entry
        encrypted[whole.index(signature) + flags] |= 1
    flipped = bytearray(whole)
    flipped[200:260] = bytes(60)
    for content, says in (
        (whole[:700], "cannot be read"),
        (b"", "cannot be read"),
        (encrypted, "train_images cannot be read .*encrypted"),
        (flipped, "train_images cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=says) as caught:
            load_mnist(tmp_path, download=False)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


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


@pytest.mark.parametrize(
    "labels, says",
    [
        (np.array(3), "train_labels is int64 \\[\\], allowed: integers \\[4\\]"),
        (np.array([0, 1, 2, 10]), "train image 3 has the label 10, allowed: 0 to 9"),
        (np.array([0, 1, 2, 3.7]), "not 3.7"),
        (np.array(["0", "1", "2", "3"]), "train_labels is <U1 \\[4\\], allowed: integers"),
    ],
)
def test_labels_that_are_none_are_named_with_their_entry(labels, says, tmp_path):
    images = np.ones((4, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", train_images=images, train_labels=labels)
    with pytest.raises(RequestError, match=says):
        load_mnist(tmp_path, download=False)


def test_images_without_pixels_and_pipes_are_refused(tmp_path):
    write_mnist(tmp_path / "a", np.empty((3, 0, 0), dtype=np.uint8), np.zeros(3, dtype=np.uint8))
    with pytest.raises(RequestError, match="cannot be read"):
        load_mnist(tmp_path / "a", download=False)
    os.mkfifo(tmp_path / "mnist.npz")
    with pytest.raises(RequestError, match="mnist.npz is not a regular file"):
        load_mnist(tmp_path, download=False)
    (tmp_path / "cifar-100-binary").mkdir()
    os.mkfifo(tmp_path / "cifar-100-binary" / "train.bin")
    with pytest.raises(RequestError, match="train.bin cannot be read .*is not a regular file"):
        load_cifar100(tmp_path, download=False)


@pytest.mark.parametrize("indices", ["[0, 3.7]", "[true, 2]", '["a"]', "[null]", "[1e999]"])
def test_a_split_names_the_entry_that_is_no_index(indices, tmp_path):
    (tmp_path / "split.txt").write_text('{"train": ' + indices + ', "valid": [1]}')
    with pytest.raises(RequestError, match='no list of numbers "train": got'):
        read_split(tmp_path / "split.txt")
