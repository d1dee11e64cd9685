"""Detection on VOC's format: reading of small trees, and what is refused in one line."""

import pytest
import torch
from boxed_images import COMMON, picture

from quantlab.config.tasks.detection import Voc as VocSection
from quantlab.errors import RequestError
from quantlab.tasks.detection_voc import Voc

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def voc_tree(root, objects=(("dog", 0, 3, 4, 8, 10), ("cat", 1, 1, 1, 20, 16)), year=2012):
    """Five training and two test images of 20x16 with `objects` in each."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for name, indices in (("train", range(5)), ("val", range(5, 7))):
        for index in indices:
            picture(folder / "JPEGImages" / f"{index}.jpg", index)
            body = "".join(OBJECT.format(*one) for one in objects)
            (folder / "Annotations" / f"{index}.xml").write_text(
                f"<annotation><size><width>20</width><height>16</height><depth>3</depth></size>{body}</annotation>"
            )
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{index}\n" for index in indices))
    return root


def voc(root, **values):
    return Voc(
        VocSection.model_validate(
            COMMON
            | {
                "_target_": "quantlab.tasks.detection_voc.Voc",
                "name": "voc",
                "data_dir": str(root),
                "download": False,
                "train": ["2012/train"],
                "test": ["2012/val"],
                "class_names": ["cat", "dog", "owl"],
            }
            | values
        )
    )


def test_voc_becomes_boxes_and_labels(tmp_path):
    task = voc(voc_tree(tmp_path))
    task.check()
    assert task.protocol() == {
        "train_images": 3,
        "validation_images": 2,
        "test_images": 2,
        "test_boxes": 4,
        "split_seed": 0,
    }
    item = task.part("test")[0]
    # VOC counts pixels from 1 and includes both ends: columns 3 to 8 are six pixels, the third to the eighth
    assert item["boxes"].tolist() == [[2, 3, 8, 10], [0, 0, 20, 16]]
    assert (
        item["labels"].tolist() == [1, 0]
        and item["ignored"].tolist() == [False, True]
        and item["image"].shape == (3, 16, 20)
    )
    assert item["image"].dtype == torch.uint8
    voc_tree(tmp_path, year=2007)
    assert voc(tmp_path, train=["2007/train", "2012/train"]).protocol()["train_images"] == 7


@pytest.mark.parametrize(
    "objects, values, says",
    [
        ((("dog", 0, 3, 4, 30, 10),), {}, r"5 of 5 boxes are invalid: the first, \[2, 3, 30, 10\] .* reaches outside"),
        ((("dog", 0, 3, 4, 2, 10),), {}, "is empty"),
        (
            (("dgo", 0, 3, 4, 8, 10),),
            {},
            "an object is called 'dgo', allowed: task.class_names, cat, dog, owl.*did you mean 'dog'",
        ),
        (
            (("zebra", 0, 3, 4, 8, 10),),
            {},
            "called 'zebra', allowed: task.class_names, cat, dog, owl, ...; correct the file",
        ),
        ((("dog", 0, "x", 4, 8, 10),), {}, "0.xml is not a file of VOC's format"),
        (
            (("dog", 0, 3, 4, 8, 10),),
            {"train": ["2012/trainval"]},
            r"task.train: VOC's set 2012/trainval is not there \(no VOCdevkit/VOC2012/ImageSets/Main/trainval.txt in"
            r" .*\), allowed: YEAR/SET, as "
            "2012/train, 2012/val; did you mean '2012/train'",
        ),
        (
            (("dog", 0, 3, 4, 8, 10),),
            {"train": ["2007/train"]},
            "VOC's set 2007/train is not there .*task.download=true",
        ),
        ((("dog", 0, 3, 4, 8, 10),), {"train": ["2012/tain"]}, "2012/tain is not there .* did you mean '2012/train'"),
        ((("dog", 0, 3, 4, 8, 10),), {"train": ["1999/train"]}, "1999/train is not there .*task.download=true"),
        (
            (("dog", 0, 3, 4, 8, 10),),
            {"test": ["val"]},
            "task.test: VOC's set val is not there .* did you mean '2012/val'",
        ),
        ((("dog", 0, 3, 4, 8, 10),), {"train": ["2012/train", "2012/train"]}, "5 images are in them more than once"),
        ((("dog", 0, "nan", 4, 8, 10),), {}, "5 of 5 boxes are invalid: the first, .* of object 1 in 0.jpg"),
    ],
)
def test_voc_files_that_are_refused(objects, values, says, tmp_path):
    with pytest.raises(RequestError, match=says) as error:
        voc(voc_tree(tmp_path, objects), **values).check()
    assert "\n" not in str(error.value)


def test_any_available_set_of_voc_is_accepted(tmp_path, monkeypatch):
    folder = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    sets = folder / "ImageSets" / "Main"
    (sets / "test.txt").write_text("5\n\n6\n")
    (sets / "my_own.txt").write_text("0\n1\n2\n3\n")
    (folder / "JPEGImages" / "6.jpg").rename(folder / "JPEGImages" / "6.JPEG")
    wanted = {"train_images": 3, "validation_images": 1, "test_images": 2, "test_boxes": 4, "split_seed": 0}
    # data_dir may also be the folder itself, or one of those above it
    for root in (tmp_path, folder.parent, folder):
        assert voc(root, train=["2012/my_own"], test=["2012/test"]).protocol() == wanted
    (sets / "dog_val.txt").write_text("5  1\n6 -1\n")
    with pytest.raises(RequestError, match="2012/dog_val names '5  1', a set of one class .*allowed: one image a line"):
        voc(tmp_path, test=["2012/dog_val"]).check()
    for name in "56":
        (folder / "Annotations" / f"{name}.xml").unlink()
    with pytest.raises(
        RequestError,
        match="task.test: VOC's set 2012/test has no boxes: .*Annotations holds none of its 2 files .* name another",
    ):
        voc(tmp_path, test=["2012/test"]).check()


def test_what_cannot_be_fetched_of_voc_is_reported(tmp_path):
    with pytest.raises(
        RequestError,
        match="task.test: got '2012/test', which is not in .* and cannot be fetched, allowed: 2007 to 2012",
    ):
        voc(voc_tree(tmp_path), test=["2012/test"], download=True).check()


def test_a_failed_download_of_voc_is_one_line(tmp_path, monkeypatch):
    import torchvision

    def offline(*args, **keys):
        raise OSError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets, "VOCDetection", offline)
    with pytest.raises(RequestError, match="could not be downloaded to .*no route to host") as caught:
        voc(tmp_path, download=True).check()
    assert "\n" not in str(caught.value)


def test_voc_files_that_are_missing(tmp_path):
    folder = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages" / "3.jpg").unlink()
    with pytest.raises(RequestError, match="1 files of VOC's set 2012/train are missing, the first is .*3.jpg"):
        voc(tmp_path).check()
    (folder / "ImageSets" / "Main" / "val.txt").write_text("")
    picture(folder / "JPEGImages" / "3.jpg", 3)
    with pytest.raises(RequestError, match="VOC's set 2012/val names no image"):
        voc(tmp_path).check()
