"""What an extra brings and is not there: one line that names the extra, before any work."""

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import TINY_ACCUQUANT, TINY_QAT

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SWEEP = ("-m", *TINY_QAT, "seed=0,1")
SEARCH = ("-m", *TINY_QAT, "hydra/sweeper=optuna", "model.depth=8,14")

# by package and extra: a command that needs it
COMMANDS = [
    ("submitit", "slurm", (*SWEEP, "hydra/launcher=slurm", "hydra.launcher.cluster=local")),
    ("ray", "ray", (*SWEEP, "hydra/launcher=ray")),
    ("optuna", "sweep", SEARCH),
    ("tensorboard", "tensorboard", (*TINY_QAT, "logger=tensorboard")),
    ("wandb", "wandb", (*SWEEP, "logger=wandb")),
    ("torch-fidelity", "metrics", (*TINY_ACCUQUANT, "task.evaluation.features=inception")),
    ("torch-fidelity", "metrics", (*TINY_ACCUQUANT, "task.evaluation.metrics=[sfid]")),
    ("transformers", "metrics", (*TINY_ACCUQUANT, "task.evaluation.features=dino")),
    ("transformers", "metrics", (*TINY_ACCUQUANT, "task.evaluation.features=clip")),
]
ELSEWHERE = {("plotly", "report"), ("transformers", "pipelines"), ("brevitas", "benchmark"), ("pytest", "test")}
# of `[sweep]`, and imported by Optuna
THROUGH_OTHERS = {"sqlalchemy"}


@pytest.fixture
def missing(monkeypatch):
    """missing(package): it cannot be imported any more."""

    def take(package):
        module = package.replace("-", "_")
        for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)

    return take


def is_one_line(err, package, extra):
    line = f"needs {package}, which is not installed; type pip install -e '.[{extra}]' in quantlab's clone"
    return err.count("\n") == 1 and line in err


@pytest.mark.parametrize("package, extra, words", COMMANDS)
def test_a_command_is_refused_in_one_line(missing, quantlab, tmp_path, monkeypatch, package, extra, words):
    missing(package)
    monkeypatch.chdir(tmp_path)
    code, out, err = quantlab(*words, "output_dir=run")
    err = "".join(line for line in err.splitlines(True) if line.startswith("quantlab: error: "))
    assert code == 2 and out == "" and is_one_line(err, package, extra), err
    assert list(tmp_path.iterdir()) == []


def test_a_page_without_plotly(missing, tmp_path, capsys):
    from quantlab.cli.report import main

    missing("plotly")
    assert main([str(tmp_path), "--html", str(tmp_path / "a.html")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err, "plotly", "report") and list(tmp_path.iterdir()) == []


def test_text_encoders_without_transformers(missing):
    from quantlab.errors import RequestError
    from quantlab.models.pipelines.family import Family

    missing("transformers")
    with pytest.raises(RequestError) as refused:
        Family.require_encoders(SimpleNamespace(found=SimpleNamespace(kind="StableDiffusionPipeline")))
    assert is_one_line(f"{refused.value}\n", "transformers", "pipelines")


@pytest.mark.parametrize(
    "script, package, extra, words",
    [("benchmark_training_cost", "brevitas", "benchmark", []), ("gpu_check", "pytest", "test", ["--device", "cpu"])],
)
def test_scripts(missing, monkeypatch, capsys, script, package, extra, words):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr("sys.argv", [script, *words])
    module = importlib.import_module(script)
    missing(package)
    assert (module.main(words) if module.main.__code__.co_argcount else module.main()) == 2
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err.replace(", or --no-brevitas", ""), package, extra)


def test_the_extras_bring_what_they_are_named_for():
    for package, extra in {(package, extra) for package, extra, _ in COMMANDS} | ELSEWHERE:
        assert package in {re.split(r"[<>=]", one)[0] for one in EXTRAS[extra]}, (package, extra)


def test_no_other_package_of_an_extra_is_imported():
    extra = {re.split(r"[<>=]", one)[0].replace("-", "_") for packages in EXTRAS.values() for one in packages}
    tried = {package.replace("-", "_") for package, *_ in [*COMMANDS, *ELSEWHERE]} | THROUGH_OTHERS
    for folder in ("quantlab", "cli", "scripts"):
        for file in (ROOT / folder).rglob("*.py"):
            names = {*re.findall(r"^\s*(?:import|from) (\w+)", file.read_text(), re.MULTILINE)}
            assert not names & extra - tried, file
