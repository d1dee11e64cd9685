"""Detection on files in COCO's format ("Microsoft COCO", Lin et al., ECCV 2014), read by pycocotools."""

import contextlib
import functools
import io
import os
from pathlib import Path

from quantlab.errors import RequestError
from quantlab.tasks.detection_files import Annotated, DetectionFiles

FIELDS = {"images": ("id", "file_name", "width", "height"), "annotations": ("id", "image_id", "category_id", "bbox"),
          "categories": ("id", "name")}
LARGEST_ID = 9999       # of a category: a detector has an output for every id up to the largest


class Coco(DetectionFiles):
    """COCO's format: `annotations/instances_NAME.json` and images in `NAME/`; the test part is the one called `section.test`.

    Labels are category ids less one (less nothing where a file counts from 0): ids are not packed, so that the outputs of detectors
    trained elsewhere keep their meaning. COCO's 80 categories have ids up to 90. A crowd's box is ignored.
    """

    @functools.cached_property
    def _files(self) -> dict[str, tuple[Path, dict]]:
        files = {}
        for name in (self.section.train, self.section.test):
            path = self.root / "annotations" / f"instances_{name}.json"
            files[name] = path, _read_coco(path)
        return files

    @functools.cached_property
    def class_names(self) -> list[str]:
        path, train = self._files[self.section.train]
        named = {category["id"]: str(category["name"]) for category in train["categories"]}
        if not named or any(not isinstance(number, int) or not 0 <= number <= LARGEST_ID for number in named):
            raise RequestError(f"{path}: its {len(named)} categories have ids {sorted(named, key=str)[:3]}, ..., allowed: at least one, "
                               f"each with a whole id from 0 to {LARGEST_ID}; number them from 1")
        return [named.get(number, f"(no category {number})") for number in range(self._first_id, max(named) + 1)]

    @functools.cached_property
    def _first_id(self) -> int:
        """The id of label 0: 1, or 0 where the file counts from there."""
        return min(1, *(category["id"] for category in self._files[self.section.train][1]["categories"]))

    def _training_and_test(self) -> tuple[list[Annotated], list[Annotated]]:
        (train_path, train), (test_path, test) = (self._files[name] for name in (self.section.train, self.section.test))
        theirs, ours = ({category["id"]: category["name"] for category in one["categories"]} for one in (test, train))
        if theirs != ours:
            differing = sorted(set(theirs.items()) ^ set(ours.items()), key=str)[0]
            raise RequestError(f"{test_path}: its categories are not those of {train_path.name}, allowed: the same ids and names in both; "
                               f"the first that differs is {differing[0]} '{differing[1]}'")
        return tuple(self._annotated(name, ours) for name in (self.section.train, self.section.test))

    def _annotated(self, name: str, categories: dict[int, str]) -> list[Annotated]:
        path, content = self._files[name]
        folder = self.root / name
        if not folder.is_dir():
            raise RequestError(f"{folder} does not exist, allowed: the folder of the {len(content['images'])} images that "
                               f"{path.name} names; put it there, or give another data_dir=PATH")
        there = {entry.name for entry in os.scandir(folder)}
        missing = [image["file_name"] for image in content["images"]
                   if image["file_name"] not in there and not (folder / image["file_name"]).is_file()]      # in a folder below
        if missing:
            raise RequestError(f"{path}: {len(missing)} of its {len(content['images'])} images are not in {folder}, the first is "
                               f"{missing[0]}; put them there, or take them out of the file")
        images = {image["id"]: Annotated(folder / image["file_name"], (image["width"], image["height"]), [], [], [])
                  for image in content["images"]}
        for one in content["annotations"]:
            if one["category_id"] not in categories:
                raise RequestError(f"{path}: annotation {one['id']} has category_id {one['category_id']}, allowed: the ids of its "
                                   f"categories, {min(categories)} to {max(categories)}; correct the file")
            if one["image_id"] not in images:
                raise RequestError(f"{path}: annotation {one['id']} has image_id {one['image_id']}, allowed: the ids of its images; "
                                   "correct the file")
            x, y, width, height = one["bbox"]
            image = images[one["image_id"]]
            image.boxes.append((x, y, x + width, y + height))
            image.labels.append(one["category_id"] - self._first_id)
            image.ignored.append(bool(one.get("iscrowd", 0)))
        return self._sound(list(images.values()), path)


def _read_coco(path: Path) -> dict:
    """An annotation file, read by pycocotools. Raises RequestError where it is missing, is not of the format, or names no image."""
    from pycocotools.coco import COCO

    if not path.is_file():
        raise RequestError(f"{path} does not exist, allowed: COCO's tree, annotations/instances_NAME.json beside the folders of images; "
                           "give it with data_dir=PATH, and the names with task.train=NAME task.test=NAME")
    try:
        with contextlib.redirect_stdout(io.StringIO()):     # it tells how long it took
            content = COCO(str(path)).dataset
        lacking = [f"{key} without {field}" for key, fields in FIELDS.items() for one in content[key] for field in fields
                   if field not in one]
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        raise RequestError(f"{path} is not a file of COCO's format ({type(error).__name__}: {error}); restore it") from error
    if lacking:
        raise RequestError(f"{path} is not a file of COCO's format ({lacking[0]}); restore it")
    if not content["images"]:
        raise RequestError(f"{path} names no image, allowed: at least one; give another data_dir=PATH")
    # Without the outlines of objects, which are most of the file: a gigabyte of COCO's
    return {key: [{field: one[field] for field in (*fields, "iscrowd") if field in one} for one in content[key]]
            for key, fields in FIELDS.items()}
