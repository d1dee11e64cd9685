"""Detection on COCO's format: reading of small trees, and what is refused in one line."""

import json
import logging

import pytest
from boxed_images import COMMON, picture

from quantlab.config.tasks.detection import Coco as CocoSection
from quantlab.errors import RequestError, RunError
from quantlab.tasks.detection_coco import Coco


def coco_tree(root, change=lambda content: None, count=6):
    """`count` images of 20x16 in train2017 and 2 in val2017, a box in each, image 1 also with a crowd's and image 2
    with none; `change` is done to the training file.
    """
    for name, number in (("train2017", count), ("val2017", 2)):
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "owl"}]}
        for index in range(number):
            picture(root / name / f"{index}.png", index)
            content["images"].append({"id": 100 + index, "file_name": f"{index}.png", "width": 20, "height": 16})
            if index != 2:
                content["annotations"].append(
                    {
                        "id": index,
                        "image_id": 100 + index,
                        "category_id": 3 if index == 1 else 1,
                        "iscrowd": 0,
                        "bbox": [index + 1.0, 2, 4, 5.5],
                    }
                )
        content["annotations"].append(
            {"id": 99, "image_id": 101, "category_id": 1, "bbox": [0, 0, 20.5, 16], "iscrowd": 1}
        )
        if name == "train2017":
            change(content)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    return root


def coco(root, **values):
    return Coco(
        CocoSection.model_validate(
            COMMON
            | {
                "_target_": "quantlab.tasks.detection_coco.Coco",
                "name": "coco",
                "data_dir": str(root),
                "train": "train2017",
                "test": "val2017",
            }
            | values
        )
    )


def test_coco_becomes_boxes_and_labels(tmp_path):
    task = coco(coco_tree(tmp_path))
    task.check()
    # ids are kept: label k is id k + 1, so that the outputs of detectors trained elsewhere keep their meaning
    assert task.class_names == ["cat", "(no category 2)", "owl"] and task.classes == 3
    # image 2 has no box to train on; of the other five, round(0.3 * 5) are held out
    assert task.protocol() == {
        "train_images": 3,
        "validation_images": 2,
        "test_images": 2,
        "test_boxes": 3,
        "split_seed": 0,
    }
    files = [one.file.name for name in ("train", "validation") for one in task.part(name).images]
    assert sorted(files) == ["0.png", "1.png", "3.png", "4.png", "5.png"]
    item = task.part("test")[1]
    # the crowd's, half a pixel too wide, is clipped
    assert item["boxes"].tolist() == [[2, 2, 6, 7.5], [0, 0, 20, 16]]
    assert item["labels"].tolist() == [2, 0] and item["ignored"].tolist() == [False, True]
    assert (item["image"].permute(1, 2, 0).numpy() == picture(tmp_path / "again.png", 1)).all()
    assert coco(tmp_path).fingerprint() == task.fingerprint() != coco(tmp_path, split_seed=1).fingerprint()


def test_coco_that_counts_from_zero(tmp_path):
    def from_zero(content):
        content["categories"] = [{"id": 0, "name": "cat"}, {"id": 1, "name": "owl"}]
        for one in content["annotations"]:
            one["category_id"] //= 2

    coco_tree(tmp_path, from_zero)
    (tmp_path / "annotations" / "instances_val2017.json").write_text(
        (tmp_path / "annotations" / "instances_train2017.json").read_text()
    )
    for index in range(2, 6):
        picture(tmp_path / "val2017" / f"{index}.png", index)
    task = coco(tmp_path)
    assert task.class_names == ["cat", "owl"] and task.part("test")[1]["labels"].tolist() == [1, 0]


def test_few_boxes_that_cannot_be_are_left_out_when_allowed(tmp_path, caplog):
    def spoil(content):
        content["annotations"][0]["bbox"] = [3, 3, 4, 0]

    task = coco(coco_tree(tmp_path, spoil), invalid_boxes=0.2)
    with caplog.at_level(logging.INFO, logger="quantlab"):
        assert sum(len(task.part(name)) for name in ("train", "validation")) == 4
    assert "1 of 6 boxes are empty or outside their image and left out" in caplog.text
    assert "2 of 6 training images have no box and are not trained on" in caplog.text


def box(values):
    return lambda content: content["annotations"][0].update(bbox=values)


@pytest.mark.parametrize(
    "change, says",
    [
        (
            box([18, 2, 4, 5]),
            r"1 of 6 boxes are invalid: the first, \[18, 2, 22, 7\] \(x1, y1, x2, y2\) of annotation 0 in 0.png, 20x16 "
            "pixels, reaches outside",
        ),
        (box([-3, 2, 4, 5]), "reaches outside"),
        (box([2, 3, 0, 5]), r"\[2, 3, 2, 8\] .* is empty; allowed: boxes inside their image, wider and taller than 0"),
        (box([20, 2, 1, 5]), "is empty"),
        (box([2, 3, -4, 5]), r"\[2, 3, -2, 8\] \(x1, y1, x2, y2\) of annotation 0 in 0.png"),
        (
            box([2, 3, "4", 5]),
            r'train2017.json: annotation 0 has bbox \[2, 3, "4", 5\], allowed: four numbers, x, y, width, height',
        ),
        (box([2, 3, 4]), r"annotation 0 has bbox \[2, 3, 4\], allowed: four numbers"),
        (box([2, 3, 4, 5, 6]), "annotation 0 has bbox"),
        (box([2, 3, True, 5]), "annotation 0 has bbox"),
        (box([2, 3, float("nan"), 5]), r"annotation 0 has bbox \[2, 3, NaN, 5\]"),
        (box([2, 3, float("inf"), 5]), "annotation 0 has bbox"),
        (box(None), "annotation 0 has bbox null"),
        (lambda content: content["annotations"][3].pop("bbox"), "annotation 4 has no bbox, allowed: four numbers"),
        (lambda content: content["annotations"][3].pop("id"), "entry 3 of annotations has no id"),
        (lambda content: content["annotations"].append(7), "entry 6 of annotations is 7, allowed: an object"),
        (
            lambda content: content["annotations"][3].update(id=0),
            "1 ids of annotations are given more than once, the first is 0",
        ),
        (
            lambda content: content["annotations"][3].update(iscrowd="perhaps"),
            'annotation 4 has iscrowd "perhaps", allowed: 0 or 1',
        ),
        (
            lambda content: content["annotations"][3].update(category_id="cat"),
            'annotation 4 has category_id "cat", allowed: the id of',
        ),
        (
            lambda content: content["images"][4].update(id=100),
            "1 ids of images are given more than once, the first is 100",
        ),
        (lambda content: content["images"][4].update(id=[1]), r"image \[1\] has id \[1\], allowed: a whole number"),
        (
            lambda content: content["images"][4].update(width=0),
            "image 104 has width 0, allowed: a whole number of pixels",
        ),
        (lambda content: content["categories"][1].update(id=1), "1 ids of categories are given more than once"),
        (
            lambda content: content["categories"][1].update(id=-3),
            "category -3 has id -3, allowed: a whole number, of categories from 0 to",
        ),
        (lambda content: content["categories"][1].update(id="3"), 'category 3 has id "3"'),
        (lambda content: content.update(categories=[]), "names no category"),
        (
            lambda content: content.update(images={}),
            "got an object with images, annotations, categories, allowed: an object with the lists",
        ),
        (
            lambda content: content["annotations"][3].update(category_id=2),
            "4 has category_id 2, allowed: the ids of its categories, 1 to 3",
        ),
        (lambda content: content["annotations"][3].update(image_id=7), "annotation 4 has image_id 7"),
        (
            lambda content: content["images"][4].update(file_name="far.png"),
            "1 of its 6 images are not in .*train2017, the first is far.png",
        ),
        (lambda content: content.update(images=[], annotations=[]), "names no image"),
        (lambda content: content.pop("categories"), "is not a file of COCO's format"),
        (
            lambda content: content["images"][0].pop("width"),
            "image 100 has no width, allowed: a whole number of pixels",
        ),
        (
            lambda content: content.update(categories=[{"id": 1, "name": "cat"}]),
            "its categories are not those of instances_train2017.json",
        ),
        (
            lambda content: content.update(annotations=content["annotations"][:1]),
            "task.validation_fraction: 1 images .* are left for training",
        ),
        (
            lambda content: content.update(annotations=content["annotations"][:2], images=content["images"][:2]),
            "give more images",
        ),
    ],
)
def test_coco_files_that_are_refused(change, says, tmp_path):
    with pytest.raises(RequestError, match=says) as error:
        coco(coco_tree(tmp_path, change)).check()
    assert "\n" not in str(error.value)


def test_coco_trees_that_are_refused(tmp_path):
    with pytest.raises(RequestError, match="nowhere does not exist; give the folder of coco"):
        coco(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="instances_train2017.json does not exist, allowed: COCO's tree"):
        coco(tmp_path).check()
    coco_tree(tmp_path)
    (tmp_path / "val2017").rename(tmp_path / "moved")
    with pytest.raises(RequestError, match="val2017 does not exist, allowed: the folder of the 2 images"):
        coco(tmp_path).check()
    for text in ("{", "[]", "null", "\xff", "[" * 100_000):
        (tmp_path / "annotations" / "instances_train2017.json").write_text(text, encoding="latin-1")
        with pytest.raises(RequestError, match="instances_train2017.json is not a file of COCO's format"):
            coco(tmp_path).check()


def test_ids_may_be_text_and_a_crowd_may_be_null(tmp_path):
    def change(content):
        content["images"][1]["id"] = "second"
        for one in content["annotations"]:
            one["image_id"] = "second" if one["image_id"] == 101 else one["image_id"]
        content["annotations"][0]["iscrowd"] = None

    assert coco(coco_tree(tmp_path, change)).protocol()["train_images"] == 3


def test_images_of_coco_that_cannot_be_read_are_named_before_any_work(tmp_path):
    coco_tree(tmp_path)
    (tmp_path / "train2017" / "3.png").write_bytes(b"")
    with pytest.raises(RequestError, match=r"train2017/3.png is empty \(0 bytes\)"):
        coco(tmp_path).check()
    (tmp_path / "train2017" / "3.png").unlink()
    (tmp_path / "train2017" / "3.png").symlink_to("/nowhere")
    with pytest.raises(RequestError, match="3.png is a link to /nowhere"):
        coco(tmp_path).check()


def test_training_images_are_not_tested_on(tmp_path):
    with pytest.raises(
        RequestError, match="task.train=train2017 task.test=train2017: 6 images are in them more than once"
    ):
        coco(coco_tree(tmp_path), test="train2017").check()


def test_advice_on_boxes_is_accepted(tmp_path):
    def spoil(content):
        for one in content["annotations"]:
            one["bbox"] = [0, 0, 0, 0]

    with pytest.raises(RequestError, match="6 of 6 boxes are invalid.*; correct the file$"):
        coco(coco_tree(tmp_path, spoil)).check()


def test_an_image_that_is_damaged_or_of_another_size_is_named(tmp_path):
    part = coco(coco_tree(tmp_path)).part("test")
    (tmp_path / "val2017" / "0.png").write_bytes(b"no image")
    picture(tmp_path / "val2017" / "1.png", 1, width=21)
    with pytest.raises(RunError, match="0.png cannot be read as an image"):
        part[0]
    with pytest.raises(RunError, match="1.png has 21x16 pixels, but its boxes are drawn for 20x16"):
        part[1]
