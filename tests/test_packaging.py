"""What pyproject.toml says against what is in the tree."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import quantlab

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest itself requires tomli there
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {name: ROOT / folder for name, folder in PYPROJECT["tool"]["setuptools"]["package-dir"].items()}


def test_every_package_of_the_tree_is_listed():
    found = {
        ".".join((name, *init.parent.relative_to(folder).parts))
        for name, folder in FOLDERS.items()
        for init in folder.rglob("__init__.py")
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found


def test_every_module_is_in_a_package():
    strays = [
        str(module.relative_to(ROOT))
        for folder in FOLDERS.values()
        for module in folder.rglob("*.py")
        if not (module.parent / "__init__.py").exists()
    ]
    assert strays == []


def test_every_config_is_package_data():
    conf = ROOT / "conf"
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["quantlab.conf"]
    shipped = {path for pattern in patterns for path in conf.glob(pattern)}
    present = {path for path in conf.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert shipped == present
    assert conf / "config.yaml" in shipped


def test_what_packages_hold_beside_python_is_package_data():
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    found = {
        path.relative_to(ROOT)
        for folder in FOLDERS.values()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    shipped = set()
    for package, patterns in data.items():
        inner = [name for name in FOLDERS if package == name or package.startswith(f"{name}.")]
        folder = FOLDERS[max(inner, key=len)].joinpath(*package.removeprefix(max(inner, key=len)).split("."))
        shipped |= {path.relative_to(ROOT) for pattern in patterns for path in folder.glob(pattern)}
    assert found == shipped


def test_extras_that_are_named_exist():
    extras = PYPROJECT["project"]["optional-dependencies"]
    for folder in ("cli", "quantlab", "conf", "docs"):
        for file in (ROOT / folder).rglob("*.*"):
            if file.suffix in (".py", ".yaml", ".md"):
                for named in re.findall(r"pip install[^\n]*\.\[([\w,]+)\]", file.read_text(encoding="utf-8")):
                    assert set(named.split(",")) <= set(extras), file


@pytest.mark.parametrize(
    "module",
    [
        "quantlab",
        "quantlab.config",
        "quantlab.report",
        "quantlab.run.directory",
        "quantlab.search.nats_bench",
        "quantlab.search.strategies",
        "quantlab.run.signals",
        "quantlab.cli.main",
        "quantlab.cli.report",
    ],
)
def test_light_modules_import_no_torch(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not there")
    heavy = ("torch", "diffusers", "timm", "torchvision")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_one_version_everywhere():
    assert importlib.metadata.version("quantlab") == quantlab.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == quantlab.__version__
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest and newest[1] == quantlab.__version__


@pytest.mark.parametrize("script", [".ci/run", "scripts/setup.sh", "scripts/quickstart.sh", "scripts/test.sh"])
def test_scripts_can_be_run(script):
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
