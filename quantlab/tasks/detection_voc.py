"""Detection on files in PASCAL VOC's format ("The PASCAL Visual Object Classes Challenge", Everingham et al., IJCV
2010).
"""

import logging
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from quantlab.errors import RequestError, did_you_mean
from quantlab.run.parsing import read_bounded
from quantlab.tasks.detection_files import BoxedImage, DetectionFiles
from quantlab.tasks.image_files import is_image, require_sound_files

MOST_BYTES = 1 << 24  # of one annotation
log = logging.getLogger("quantlab")


class Voc(DetectionFiles):
    """PASCAL VOC's format; torchvision downloads it. The sets of `section.train` and `section.test` are named YEAR/SET.

    Boxes in the files count pixels from 1 and include both ends; here they are [x1 - 1, y1 - 1, x2, y2]. Difficult
    objects are ignored, as in VOC's own evaluation; the metric is COCO's mean average precision.
    """

    @property
    def class_names(self) -> list[str]:
        return self.section.class_names

    def _training_and_test(self) -> tuple[list[BoxedImage], list[BoxedImage]]:
        return tuple(
            [one for name in getattr(self.section, key) for one in self._set(name, key)] for key in ("train", "test")
        )

    def _set(self, name: str, key: str) -> list[BoxedImage]:
        """The images of YEAR/SET, the value of `task.KEY`, as listed in ImageSets/Main/SET.txt."""
        year, _, part = name.partition("/")
        if self._listed(year, part) is None and self.section.download:
            self._download(name, key)
        listed = self._listed(year, part)
        if listed is None:
            raise self._not_there(name, key)
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        several = [one for one in names if len(one.split()) > 1]
        if not names or several:
            got = f"'{several[0]}', a set of one class" if several else "no image"
            raise RequestError(
                f"task.{key}: VOC's set {name} names {got} ({listed}), allowed: one image a line, at least one; "
                "name another set"
            )
        folder = listed.parents[2]
        images = _by_stem(folder / "JPEGImages", is_image)
        annotations = _by_stem(folder / "Annotations", lambda file: file.endswith(".xml"))
        if not any(one in annotations for one in names):
            raise RequestError(
                f"task.{key}: VOC's set {name} has no boxes: {folder / 'Annotations'} holds none of its {len(names)} "
                "files (of its test sets VOC published those of 2007 alone), allowed: a set with annotations; name "
                f"another in task.{key}"
            )
        missing = [
            folder / kind / f"{one}{ending}"
            for one in names
            for kind, ending, found in (("JPEGImages", ".jpg", images), ("Annotations", ".xml", annotations))
            if one not in found
        ]
        if missing:
            raise RequestError(
                f"{self.root}: {len(missing)} files of VOC's set {name} are missing, the first is {missing[0]}; unpack "
                "the archive again"
            )
        require_sound_files(images[one] for one in names)
        return self._sound([self._annotated(images[one], annotations[one]) for one in names], folder / "Annotations")

    def _not_there(self, name: str, key: str) -> RequestError:
        year, _, part = name.partition("/")
        there = self._sets()
        allowed = (
            f"YEAR/SET, as {', '.join(there)}{did_you_mean(name, there)}; type one of them, give"
            if there
            else "a folder that holds VOCdevkit/VOCYEAR/ImageSets/Main/SET.txt; give"
        )
        fetch = "" if self.section.download else ", or fetch it: task.download=true"
        return RequestError(
            f"task.{key}: VOC's set {name} is not there (no VOCdevkit/VOC{year}/ImageSets/Main/{part}.txt in "
            f"{self.root}), allowed: {allowed} another data_dir=PATH{fetch}"
        )

    def _listed(self, year: str, part: str) -> Path | None:
        """ImageSets/Main/SET.txt of a year, if data_dir is the parent of VOCdevkit, VOCdevkit, or the year's folder."""
        folders = [self.root / "VOCdevkit" / f"VOC{year}", self.root / f"VOC{year}"]
        folders += [self.root] if self.root.name == f"VOC{year}" else []
        found = (folder / "ImageSets" / "Main" / f"{part}.txt" for folder in folders)
        return next((file for file in found if part and file.is_file()), None)

    def _sets(self) -> list[str]:
        """YEAR/SET of all available sets, without VOC's sets of single classes."""
        files = [
            file for pattern in ("VOCdevkit/VOC*", "VOC*") for file in self.root.glob(f"{pattern}/ImageSets/Main/*.txt")
        ]
        return sorted(
            f"{file.parents[2].name.removeprefix('VOC')}/{file.stem}"
            for file in files
            if file.stem.rpartition("_")[0] not in self.class_names
        )

    def _download(self, name: str, key: str) -> None:
        from torchvision.datasets import VOCDetection

        year, _, part = name.partition("/")
        log.info("downloading VOC %s to %s", name, self.root)
        try:
            VOCDetection(str(self.root), year, part, download=True)
        except ValueError as error:
            raise RequestError(
                f"task.{key}: got '{name}', which is not in {self.root} and cannot be fetched, allowed: 2007 to "
                "2012 and train, val, trainval, and 2007/test; name one of them"
            ) from error
        except (RuntimeError, OSError) as error:
            raise RequestError(
                f"VOC's set {name} could not be downloaded to {self.root} ({' '.join(str(error).split())}); check the "
                "connection and the folder, or put the files there and leave task.download=false"
            ) from error

    def _annotated(self, file: Path, annotation: Path) -> BoxedImage:
        try:
            root = ElementTree.fromstring(read_bounded(annotation, MOST_BYTES))
            size = tuple(int(root.find(f"size/{side}").text) for side in ("width", "height"))
            one = BoxedImage(file, size, [], [], [], [])
            for found in root.iter("object"):
                x1, y1, x2, y2 = (float(found.find(f"bndbox/{side}").text) for side in ("xmin", "ymin", "xmax", "ymax"))
                one.boxes.append((x1 - 1, y1 - 1, x2, y2))
                one.ignored.append(found.findtext("difficult", "0").strip() == "1")
                one.labels.append(found.findtext("name", "").strip())
                one.sources.append(f"object {len(one.labels)}")
        except (ElementTree.ParseError, OSError, AttributeError, TypeError, ValueError) as error:
            raise RequestError(
                f"{annotation} is not a file of VOC's format ({type(error).__name__}: {error}); restore it"
            ) from error
        unknown = [name for name in one.labels if name not in self.class_names]
        if unknown:
            near = did_you_mean(unknown[0], self.class_names)
            advice = f"{near} Correct" if near else "; correct"
            raise RequestError(
                f"{annotation}: an object is called '{unknown[0]}', allowed: task.class_names, "
                f"{', '.join(self.class_names[:3])}, ...{advice} the file, or task.class_names"
            )
        return one._replace(labels=[self.class_names.index(name) for name in one.labels])


def _by_stem(folder: Path, wanted: Callable[[str], bool]) -> dict[str, Path]:
    """The files of `folder` whose name is `wanted`, by name without extension; empty if the folder does not exist."""
    return {file.stem: file for file in sorted(folder.iterdir()) if wanted(file.name)} if folder.is_dir() else {}
