"""Detection on files in COCO's format ("Microsoft COCO", Lin et al., ECCV 2014)."""

import functools
import json
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict  # pydantic needs this one before Python 3.12

from quantlab.errors import RequestError
from quantlab.run.parsing import read_json
from quantlab.tasks.detection_files import BoxedImage, DetectionFiles
from quantlab.tasks.image_files import require_sound_files

MOST_BYTES = 1 << 33  # of an annotation file; COCO's largest has half a gigabyte
LARGEST_ID = 9999  # of a category: detectors have an output for every id up to the largest

Id = Annotated[int, Field(strict=True)] | Annotated[str, Field(strict=True)]
Side = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # a JSON number: no text, no booleans, no NaN


class Image(TypedDict):
    id: Id
    file_name: Annotated[str, Field(min_length=1)]
    width: Side
    height: Side


class Annotation(TypedDict):
    id: Id
    image_id: Id
    category_id: Annotated[int, Field(strict=True)]
    bbox: tuple[Number, Number, Number, Number]
    iscrowd: NotRequired[bool | None]


class Category(TypedDict):
    id: Annotated[int, Field(strict=True, ge=0, le=LARGEST_ID)]
    name: Annotated[str, Field(coerce_numbers_to_str=True)]


ENTRIES = {"images": ("image", Image), "annotations": ("annotation", Annotation), "categories": ("category", Category)}
ALLOWED = {  # by field, for messages
    "id": f"a whole number, of categories from 0 to {LARGEST_ID}; images and annotations may have text",
    "image_id": "the id of an image",
    "category_id": "the id of a category",
    "bbox": "four numbers, x, y, width, height, in pixels",
    "file_name": "text",
    "width": "a whole number of pixels",
    "height": "a whole number of pixels",
    "iscrowd": "0 or 1",
    "name": "text",
}


class Coco(DetectionFiles):
    """COCO's format: `annotations/instances_NAME.json` and images in `NAME/`; the test part is the set
    `section.test`.

    Labels are category ids minus one (unchanged if a file counts from 0). Ids are not packed, so that the outputs of
    detectors trained elsewhere keep their meaning; COCO's 80 categories have ids up to 90. Crowd boxes are ignored.
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
        named = {category["id"]: category["name"] for category in self._files[self.section.train][1]["categories"]}
        return [named.get(number, f"(no category {number})") for number in range(self._first_id, max(named) + 1)]

    @functools.cached_property
    def _first_id(self) -> int:
        """The id of label 0: 1, or 0 if the file counts from 0."""
        return min(1, *(category["id"] for category in self._files[self.section.train][1]["categories"]))

    def _training_and_test(self) -> tuple[list[BoxedImage], list[BoxedImage]]:
        (train_path, train), (test_path, test) = (self._files[name] for name in (self.section.train, self.section.test))
        theirs, ours = ({category["id"]: category["name"] for category in one["categories"]} for one in (test, train))
        if theirs != ours:
            differing = sorted(set(theirs.items()) ^ set(ours.items()), key=str)[0]
            raise RequestError(
                f"{test_path}: its categories are not those of {train_path.name}, allowed: the same ids and names in"
                f" both; the first that differs is {differing[0]} '{differing[1]}'"
            )
        return tuple(self._annotated(name, ours) for name in (self.section.train, self.section.test))

    def _annotated(self, name: str, categories: dict[int, str]) -> list[BoxedImage]:
        path, content = self._files[name]
        folder = self.root / name
        if not folder.is_dir():
            raise RequestError(
                f"{folder} does not exist, allowed: the folder of the {len(content['images'])} images that "
                f"{path.name} names; put it there, or give another data_dir=PATH"
            )
        images = {
            image["id"]: BoxedImage(folder / image["file_name"], (image["width"], image["height"]), [], [], [], [])
            for image in content["images"]
        }
        missing = [one.file for one in images.values() if not one.file.exists() and not one.file.is_symlink()]
        if missing:
            raise RequestError(
                f"{path}: {len(missing)} of its {len(images)} images are not in {folder}, the first is "
                f"{missing[0].relative_to(folder)}; put them there, or take them out of the file"
            )
        require_sound_files(one.file for one in images.values())
        for one in content["annotations"]:
            if one["category_id"] not in categories:
                raise RequestError(
                    f"{path}: annotation {one['id']} has category_id {one['category_id']}, allowed: the ids of its "
                    f"categories, {min(categories)} to {max(categories)}; correct the file"
                )
            if one["image_id"] not in images:
                raise RequestError(
                    f"{path}: annotation {one['id']} has image_id {one['image_id']}, allowed: the ids of its images; "
                    "correct the file"
                )
            x, y, width, height = one["bbox"]
            image = images[one["image_id"]]
            image.boxes.append((x, y, x + width, y + height))
            image.labels.append(one["category_id"] - self._first_id)
            image.ignored.append(bool(one.get("iscrowd")))
            image.sources.append(f"annotation {one['id']}")
        return self._sound(list(images.values()), path)


def _read_coco(path: Path) -> dict[str, list[dict]]:
    """Images, annotations and categories of a file, reduced to what boxes need: outlines are most of the file, a
    gigabyte for COCO.

    Raises:
        RequestError: the file is missing, not of this format, has no image or no category, or repeats an id.
    """
    if not path.is_file():
        raise RequestError(
            f"{path} does not exist, allowed: COCO's tree, annotations/instances_NAME.json next to the folders of"
            " images; give it with data_dir=PATH, and the names with task.train=NAME task.test=NAME"
        )
    try:
        content = read_json(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} is not a file of COCO's format ({type(error).__name__}: {error}); restore it"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ENTRIES):
        got = (
            f"an object with {', '.join(content) or 'nothing'}"
            if isinstance(content, dict)
            else f"a {type(content).__name__}"
        )
        raise RequestError(
            f"{path} is not a file of COCO's format: got {got}, allowed: an object with the lists {', '.join(ENTRIES)};"
            " restore it"
        )
    found = {key: _entries(path, key, content[key]) for key in ENTRIES}
    for key in ("images", "categories"):
        if not found[key]:
            raise RequestError(f"{path} names no {ENTRIES[key][0]}, allowed: at least one; give another data_dir=PATH")
    return found


def _entries(path: Path, key: str, entries: list) -> list[dict]:
    singular, kind = ENTRIES[key]
    try:
        sound = TypeAdapter(list[kind]).validate_python(entries)
    except ValidationError as error:
        number, *where = error.errors()[0]["loc"]
        entry = entries[number]
        which = f"{singular} {entry['id']}" if isinstance(entry, dict) and "id" in entry else f"entry {number} of {key}"
        raise RequestError(f"{path}: {which} {_wrong(entry, where)}; correct the file") from None
    twice = [number for number, count in Counter(one["id"] for one in sound).items() if count > 1]
    if twice:
        raise RequestError(
            f"{path}: {len(twice)} ids of {key} are given more than once, the first is {twice[0]}, allowed: each once; "
            "renumber them"
        )
    return sound


def _wrong(entry: Any, where: list[Hashable]) -> str:
    if not where:
        return f"is {_short(entry)}, allowed: an object"
    field = where[0]
    got = f"has {field} {_short(entry[field])}" if field in entry else f"has no {field}"
    return f"{got}, allowed: {ALLOWED[field]}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
