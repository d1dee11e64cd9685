"""Detection on files in PASCAL VOC's format ("The PASCAL Visual Object Classes Challenge", Everingham et al., IJCV 2010)."""

import logging
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from quantlab.errors import RequestError, did_you_mean
from quantlab.tasks.detection_files import Annotated, DetectionFiles

log = logging.getLogger("quantlab")


class Voc(DetectionFiles):
    """PASCAL VOC's format, through torchvision.datasets.VOCDetection. The sets of `section.train` and `section.test` are named YEAR/SET.

    A file's boxes count pixels from 1 and include both ends; here [x1 - 1, y1 - 1, x2, y2]. A difficult object is ignored, as in
    VOC's own evaluation; what is measured is COCO's mean average precision.
    """

    @property
    def class_names(self) -> list[str]:
        return self.section.class_names

    def _training_and_test(self) -> tuple[list[Annotated], list[Annotated]]:
        return tuple([one for name in names for one in self._set(name)] for names in (self.section.train, self.section.test))

    def _set(self, name: str) -> list[Annotated]:
        data = self._open(name)
        if not data.images:
            raise RequestError(f"{self.root}: VOC's set {name} names no image, allowed: at least one; give another data_dir=PATH")
        missing = [Path(file) for pair in zip(data.images, data.annotations, strict=True) for file in pair if not Path(file).is_file()]
        if missing:
            raise RequestError(f"{self.root}: {len(missing)} files of VOC's set {name} are missing, the first is {missing[0]}; unpack the "
                               "archive again")
        images = [self._annotated(Path(file), Path(annotation)) for file, annotation in zip(data.images, data.annotations, strict=True)]
        return self._sound(images, Path(data.annotations[0]).parent)

    def _open(self, name: str) -> Any:
        from torchvision.datasets import VOCDetection

        year, _, part = name.partition("/")
        try:
            try:
                return VOCDetection(str(self.root), year, part)
            except (RuntimeError, OSError):
                if not self.section.download:
                    raise
                log.info("downloading VOC %s to %s", name, self.root)
                return VOCDetection(str(self.root), year, part, download=True)
        except ValueError as error:
            raise RequestError(f"task.train and task.test: got '{name}', allowed: YEAR/SET, 2007 to 2012 and train, val, trainval, and "
                               "2007/test; type task.train=[2012/train]") from error
        except (RuntimeError, OSError) as error:
            raise RequestError(f"{self.root}: VOC's set {name} is not there ({str(error).splitlines()[0]}), allowed: VOCdevkit/VOC{year} "
                               f"with ImageSets/Main/{part}.txt; give its folder with data_dir=PATH, or fetch it: "
                               "task.download=true") from error

    def _annotated(self, file: Path, annotation: Path) -> Annotated:
        try:
            root = ElementTree.parse(annotation).getroot()
            size = tuple(int(root.find(f"size/{side}").text) for side in ("width", "height"))
            one = Annotated(file, size, [], [], [])
            for found in root.iter("object"):
                x1, y1, x2, y2 = (float(found.find(f"bndbox/{side}").text) for side in ("xmin", "ymin", "xmax", "ymax"))
                one.boxes.append((x1 - 1, y1 - 1, x2, y2))
                one.ignored.append(found.findtext("difficult", "0").strip() == "1")
                one.labels.append(found.findtext("name", "").strip())
        except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
            raise RequestError(f"{annotation} is not a file of VOC's format ({type(error).__name__}: {error}); restore it") from error
        unknown = [name for name in one.labels if name not in self.class_names]
        if unknown:
            near = did_you_mean(unknown[0], self.class_names)
            advice = f"{near} Correct" if near else "; correct"
            raise RequestError(f"{annotation}: an object is called '{unknown[0]}', allowed: task.class_names, "
                               f"{', '.join(self.class_names[:3])}, ...{advice} the file, or task.class_names")
        return one._replace(labels=[self.class_names.index(name) for name in one.labels])
