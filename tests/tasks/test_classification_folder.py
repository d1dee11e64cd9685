"""Classification of folders: crops, parts, and trees that are refused."""

import re

import numpy as np
import pytest
import torch
from class_folders import image_folder, imagenet, tree

from quantlab.errors import RequestError, RunError
from quantlab.tasks.classification_folder import random_resized_crop


def test_a_crop_of_everything_is_the_image_or_its_mirror():
    images = torch.randint(0, 256, (6, 3, 9, 9), dtype=torch.uint8)
    torch.testing.assert_close(
        random_resized_crop(images, 9, (1, 1), (1, 1), flip=False), images.float(), atol=1e-3, rtol=0
    )
    torch.manual_seed(0)
    for image, crop in zip(images.float(), random_resized_crop(images, 9, (1, 1), (1, 1), flip=True), strict=True):
        assert min((crop - image).abs().max(), (crop - image.flip(-1)).abs().max()) < 1e-3


def test_crops_follow_the_generator_and_stay_inside():
    ramp = torch.arange(32.0).expand(400, 1, 32, 32)  # the pixel is its own column
    torch.manual_seed(3)
    crops = random_resized_crop(ramp, 16, (0.08, 0.5), (0.75, 1.3333), flip=True)
    torch.manual_seed(3)
    assert torch.equal(crops, random_resized_crop(ramp, 16, (0.08, 0.5), (0.75, 1.3333), flip=True))
    assert crops.min() >= 0 and crops.max() <= 31 and crops.shape == (400, 1, 16, 16)
    # columns per pixel: the width of the crop / 16, negative if mirrored
    step = crops[:, 0, 0].diff(dim=1)[:, 4:-4].mean(dim=1)
    width = step.abs() * 16 / 32
    assert (step < 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert width.min() > 0.08**0.5 * 0.75**0.5 - 0.01 and width.max() < (0.5 * 1.3333) ** 0.5 + 0.01
    assert crops.amin(dim=(1, 2, 3)).min() < 2 and crops.amax(dim=(1, 2, 3)).max() > 29  # the borders are reached


def test_parts_share_no_file_and_labels_are_the_folders(tmp_path):
    task = image_folder(tree(tmp_path))
    task.check()
    assert task.classes == 3 and task.protocol() == {
        "train_images": 19,
        "validation_images": 5,
        "test_images": 6,
        "split_seed": 0,
    }
    files = [file for name in ("train", "validation", "test") for file in task.part(name).files]
    assert len(files) == len(set(files)) == 30
    for index in range(19):
        item, file = task.dataset()[index], task.dataset().files[index]
        assert item["image"].shape == (3, 10, 10) and item["image"].dtype == torch.uint8
        assert item["label"] == ["cat", "dog", "owl"].index(file.parts[0]) == int(item["image"].float().mean()) // 60
    batch = task.prepare({"image": item["image"][None]}, train=False)
    torch.testing.assert_close(batch["image"], (item["image"][None, :, 1:9, 1:9] / 255 - 0.5) / 0.25)
    assert (
        image_folder(tmp_path, split_seed=1).fingerprint() != task.fingerprint() == image_folder(tmp_path).fingerprint()
    )


def test_imagenet_tests_on_val(tmp_path):
    tree(tmp_path / "train")
    tree(tmp_path / "val", count=2)
    task = imagenet(tmp_path)
    assert task.protocol() == {"train_images": 24, "validation_images": 6, "test_images": 6, "split_seed": 0}
    assert task.part("test").folder.name == "val" and task.classes == 3
    (tmp_path / "val" / "owl").rename(tmp_path / "val" / "elk")
    with pytest.raises(RequestError, match="allowed: the same in both; the first that differs is 'elk'"):
        imagenet(tmp_path).check()


def test_trees_that_do_not_do(tmp_path):
    with pytest.raises(RequestError, match="there is no folder train"):
        imagenet(tmp_path).check()
    with pytest.raises(RequestError, match="does not exist"):
        image_folder(tmp_path / "nowhere").check()
    tree(tmp_path / "one", classes=("cat",))
    with pytest.raises(RequestError, match="at least two folders"):
        image_folder(tmp_path / "one").check()
    (tmp_path / "one" / "stray.PNG").write_bytes((tmp_path / "one" / "cat" / "0.png").read_bytes())
    with pytest.raises(RequestError, match="1 of its 11 images are in no class folder, the first is stray.PNG"):
        image_folder(tmp_path / "one").check()
    tree(tmp_path / "parts" / "train")
    tree(tmp_path / "parts" / "val")
    with pytest.raises(
        RequestError, match="its folders train, val look like parts .*type task=imagenet, .*or data_dir=.*parts/train"
    ):
        image_folder(tmp_path / "parts").check()


def test_a_class_of_one_image_is_answered_with_a_seed_that_helps(tmp_path):
    tree(tmp_path)
    for file in list((tmp_path / "owl").iterdir())[1:]:
        file.unlink()
    refused = []
    for seed in range(12):  # soon the one owl is drawn for the test
        try:
            image_folder(tmp_path, split_seed=seed).check()
        except RequestError as error:
            refused.append(str(error))
    assert refused and all("no image of class 'owl' is left to train on" in one for one in refused)
    image_folder(tmp_path, split_seed=int(refused[0].rpartition("task.split_seed=")[2])).check()


@pytest.mark.parametrize(
    "count, values, says",
    [
        (
            1,
            {},
            (
                "2 images of 2 classes, allowed: at least 4, one of every class to train on, one for validation and one"
                " for the test; add images"
            ),
        ),
        (
            2,
            {"test_fraction": 0.9},
            "task.test_fraction: got 0.9, which leaves 0 of 4 images .*; type task.test_fraction=",
        ),
        (
            3,
            {"validation_fraction": 0.1},
            "task.validation_fraction: got 0.1, which leaves 0 of 5 .*; type task.validation_fraction=",
        ),
        (3, {"validation_fraction": 0.95}, "got 0.95, which leaves 5 of 5 images for validation and 0 for training"),
    ],
)
def test_advice_for_few_images_is_what_helps(count, values, says, tmp_path):
    tree(tmp_path, classes=("cat", "dog"), count=count)
    with pytest.raises(RequestError, match=says) as caught:
        image_folder(tmp_path, **values).check()
    assert "\n" not in str(caught.value)
    advice = re.search(r"task\.(\w+)=([\d.]+\d)", str(caught.value))
    if advice:
        image_folder(tmp_path, **(values | {advice[1]: float(advice[2])}))._divided(np.arange(2 * count))


def test_an_empty_class_stops_the_run_of_either_task(tmp_path):
    (tree(tmp_path / "any") / "elk").mkdir()
    with pytest.raises(RequestError, match="there is no image in its folder 'elk'"):
        image_folder(tmp_path / "any").check()
    tree(tmp_path / "net" / "train")
    (tree(tmp_path / "net" / "val", count=2) / "elk").mkdir()
    with pytest.raises(RequestError, match="val: there is no image in its folder 'elk'"):
        imagenet(tmp_path / "net").check()


def test_what_is_damaged_is_found_in_the_middle_of_a_run(tmp_path):
    task = image_folder(tree(tmp_path))
    part = task.dataset()
    (part.folder / part.files[3]).write_bytes(b"no image")
    with pytest.raises(RunError, match="cannot be read as an image"):
        part[3]


def test_links_to_class_folders_are_followed_and_loops_are_not(tmp_path):
    tree(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    for name in ("cat", "dog", "owl"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "cat" / "again").symlink_to(tmp_path / "elsewhere")
    assert image_folder(tmp_path / "data").protocol()["train_images"] == 19


def test_a_normalization_of_other_channels_is_refused(tmp_path):
    tree(tmp_path)
    with pytest.raises(
        RequestError,
        match=r"task.normalization.mean: got 3 values, but the images of task=image_folder have 1 channel, .*type "
        r"task.normalization.mean=\[0.5\] task.normalization.std=\[0.5\]",
    ):
        image_folder(tmp_path, channels=1)
    grey = image_folder(tmp_path, channels=1, normalization={"mean": [0.5], "std": [0.5]})
    assert grey.prepare({"image": grey.dataset()[0]["image"][None]}, train=False)["image"].shape == (1, 1, 8, 8)
