"""The data of generation tasks, from digits, folders of images and damaged files."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from quantlab.errors import RequestError
from quantlab.tasks.base import denormalize, normalize, resize
from quantlab.tasks.generation import Cifar10Generation, DigitsGeneration, ImageFolderGeneration, MnistGeneration


def section(**keys):
    return SimpleNamespace(**{"name": "a_task", "image_size": 8, "evaluation": SimpleNamespace(batch_size=500), **keys})


def folder_task(folder, **keys):
    return ImageFolderGeneration(section(data_dir=str(folder), **{"channels": 3, **keys}))


def save_image(path, colour, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def classes(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        for number in range(2):
            save_image(tmp_path / name / f"{number}.png", colour)
    return tmp_path


def test_normalize_maps_the_ends_and_the_round_trip_returns_every_level():
    levels = torch.arange(256, dtype=torch.uint8)
    assert normalize(levels)[[0, 255]].tolist() == [-1, 1]
    assert torch.equal((denormalize(normalize(levels)) * 255).round().to(torch.uint8), levels)
    assert denormalize(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0, 0.5, 1]


def test_digits_are_the_bundled_ones_on_255_levels():
    task = DigitsGeneration(section())
    assert (task.kind, task.channels, task.classes) == ("generation", 1, 10)
    assert task.images().shape == (1797, 1, 8, 8) and task.images().dtype == torch.uint8
    # The first row of the first digit is 0 0 5 13 9 1 0 0 on 0..16.
    assert task.images()[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert task.labels()[:11].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_a_data_loader_over_the_dataset_gives_ready_batches():
    task = DigitsGeneration(section())
    sampler = BatchSampler(SequentialSampler(range(1797)), batch_size=100, drop_last=False)
    batches = list(DataLoader(task.dataset(), batch_sampler=sampler, collate_fn=task.collate))
    assert batches[0]["image"].shape == (100, 1, 8, 8) and batches[0]["image"].dtype == torch.float32
    assert torch.equal(torch.cat([batch["label"] for batch in batches]), task.labels())
    item = task.dataset()[1796]
    assert torch.equal(item["image"], batches[-1]["image"][-1]) and item["label"] == batches[-1]["label"][-1]


def test_the_reference_is_every_image_once_in_batches():
    batches = list(DigitsGeneration(section()).reference())
    assert [len(batch) for batch in batches] == [500, 500, 500, 297]
    assert (min(batch.min() for batch in batches), max(batch.max() for batch in batches)) == (-1, 1)


def test_resize_averages_when_it_halves_a_constant_and_keeps_the_mean():
    assert resize(torch.full((2, 1, 8, 8), 77, dtype=torch.uint8), 4).unique().tolist() == [77]
    images = DigitsGeneration(section()).images()
    assert resize(images, 4).float().mean().item() == pytest.approx(images.float().mean().item(), rel=0.06)
    assert torch.equal(resize(images, 16), resize(images, 16, chunk=100))


def test_sub_folders_are_the_labels_in_alphabetical_order(classes):
    task = folder_task(classes)
    assert task.classes == 2 and task.labels().tolist() == [0, 0, 1, 1]
    assert task.images()[:, :, 0, 0].tolist() == [[0, 0, 255]] * 2 + [[255, 0, 0]] * 2


def test_an_image_beside_the_class_folders_means_no_labels(classes):
    save_image(classes / "stray.png", "white")
    task = folder_task(classes)
    assert task.classes is None and task.labels() is None
    assert set(task.dataset()[0]) == {"image"}


def test_a_wide_image_keeps_its_middle_and_grey_its_luminance(tmp_path):
    wide = Image.new("RGB", (24, 8), "black")
    wide.paste((255, 255, 255), (8, 0, 16, 8))
    for name in ("a.png", "b.png"):
        wide.save(tmp_path / name)
    assert folder_task(tmp_path, channels=1).images().unique().tolist() == [255]
    assert folder_task(tmp_path, channels=1).images().shape == (2, 1, 8, 8)


def test_the_fingerprint_follows_the_data_and_the_size_and_nothing_else(classes):
    first = folder_task(classes).fingerprint()
    assert folder_task(classes).fingerprint() == first
    assert folder_task(classes, image_size=4).fingerprint() != first
    (classes / "notes.txt").write_text("not an image")
    assert folder_task(classes).fingerprint() == first
    save_image(classes / "red" / "0.png", (254, 0, 0))
    changed = folder_task(classes).fingerprint()
    assert changed != first
    (classes / "red" / "1.png").rename(classes / "blue" / "2.png")
    assert folder_task(classes).fingerprint() != changed


def refusal(task):
    with pytest.raises(RequestError) as caught:
        task.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_or_empty_folder_is_refused_by_its_path(tmp_path):
    assert f"{tmp_path / 'nowhere'} does not exist" in refusal(folder_task(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_text("")
    assert f"{tmp_path} holds no images" in refusal(folder_task(tmp_path))
    assert "is not a directory" in refusal(folder_task(tmp_path / "notes.txt"))


@pytest.mark.parametrize("keep", [20, 0.6])
def test_a_truncated_image_is_refused_by_its_name(classes, keep):
    path = classes / "red" / "broken.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    message = refusal(folder_task(classes))
    assert str(path) in message and "remove or replace" in message


def test_an_image_of_16_bits_is_scaled_rather_than_clipped(classes):
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(classes / "red" / "deep.png")
    assert folder_task(classes).images()[-1].unique().tolist() == [40_000 // 256]


def test_a_class_without_an_image_stops_the_run(classes):
    (classes / "green").mkdir()
    assert "there is no image in its folder 'green' (empty)" in refusal(folder_task(classes))


def test_a_postscript_file_named_png_is_not_interpreted(classes):
    (classes / "red" / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    assert "cannot be read as an image" in refusal(folder_task(classes))


@pytest.mark.parametrize("task_class, file", [(MnistGeneration, "mnist.npz"), (Cifar10Generation, "cifar10_jpeg.npz")])
class TestPackedFiles:
    def task(self, task_class, data_dir):
        return task_class(section(data_dir=str(data_dir), download=False))

    def test_a_missing_file_says_what_was_looked_for_and_how_to_fetch_it(self, task_class, file, tmp_path):
        message = refusal(self.task(task_class, tmp_path))
        assert str(tmp_path) in message and file.removesuffix(".npz") in message and "task.download=true" in message
        assert "does not exist" in refusal(self.task(task_class, tmp_path / "nowhere"))

    def test_wrong_keys_are_named(self, task_class, file, tmp_path):
        np.savez(tmp_path / file, x_train=np.zeros(3))
        message = refusal(self.task(task_class, tmp_path))
        assert "x_train" in message and "train_labels" in message

    def test_a_truncated_archive_is_refused(self, task_class, file, tmp_path):
        np.savez(tmp_path / file, x_train=np.zeros(3000))
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:1000])
        assert "cannot be read" in refusal(self.task(task_class, tmp_path))

    def test_python_objects_are_never_unpickled(self, task_class, file, tmp_path):
        names = ["train_images", "train_jpeg", "train_offsets", "train_labels"]
        np.savez(tmp_path / file, **{name: np.array([print], dtype=object) for name in names})
        assert "cannot be read" in refusal(self.task(task_class, tmp_path))
