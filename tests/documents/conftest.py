"""The parts of one's own that the pages show, where quantlab finds its own."""

import importlib
import sys

import pytest
from documents import OWN_FILES

from quantlab.config import sections


@pytest.fixture(scope="module")
def own_parts(tmp_path_factory):
    """The folder of their YAML, with the layout of conf/."""
    folder = tmp_path_factory.mktemp("own")
    for block in OWN_FILES:
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code, encoding="utf-8")
    known = dict(sections.by_target())
    modules = [block.file[:-3].replace("/", ".") for block in OWN_FILES if block.language == "python"]
    packages = [importlib.import_module(name) for name in {module.rpartition(".")[0] for module in modules}]
    for package in packages:
        package.__path__.append(str(folder / package.__name__.replace(".", "/")))
    sections._load.cache_clear()
    yield folder / "conf"
    for package in packages:
        package.__path__.pop()
    for module in modules:
        sys.modules.pop(module, None)
    sections._BY_TARGET.clear()
    sections._BY_TARGET.update(known)
    sections._declared_kind.cache_clear()
