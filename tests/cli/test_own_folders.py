"""Users' own YAML, in a folder next to conf/: found as in Hydra, checked like quantlab's own."""

from pathlib import Path

import pytest
import yaml
from hostile_text import DEEP, LAUGHS, LOOP

from quantlab.config.catalog import options

NET = "# A small net of mine\ndefaults:\n  - resnet20\n  - _self_\nname: mynet\ndepth: 14\n"
ROW = (
    "# @package _global_\n# A row of mine\ndefaults:\n  - override /method: qat\n  - override /model: mynet\nseed: 7\n"
)
ROOT = "defaults:\n  - config\n  - override method: qat\n  - override model: mynet\n  - _self_\nseed: 5\n"


@pytest.fixture
def own(tmp_path_factory):
    """own("model/x.yaml", text): the folder, with that file added to a model, an experiment and a root config."""
    folder = tmp_path_factory.mktemp("own")

    def add(name=None, text=""):
        files = {"model/mynet.yaml": NET, "experiment/mine.yaml": ROW, "mine.yaml": ROOT} | (
            {name: text} if name else {}
        )
        for file, content in files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(content)
        return str(folder)

    return add


@pytest.mark.parametrize(
    "words, seed",
    [
        (["--config-dir={own}", "method=qat", "model=mynet"], 0),
        (["-cd", "{own}", "experiment=mine"], 7),
        (["experiment=mine", "hydra.searchpath=[file://{own}]"], 7),
        (["--config-name", "mine", "--config-dir", "{own}"], 5),
    ],
)
def test_it_is_found_as_hydra_finds_it(command, runner, own, words, seed):
    typed = [word.format(own=own()) for word in words]
    assert command(*typed, "output_dir=run")[0] == 0
    (config,) = runner.configs
    assert (config.model.name, config.model.depth, config.method.name, config.seed) == ("mynet", 14, "qat", seed)
    assert "mynet" not in options("model")

    # What was typed repeats the run, and nothing of it is needed to go on.
    runner.configs.clear()
    assert command(*runner.typed[0], "output_dir=again")[0] == 0
    assert runner.configs[0].model_copy(update={"output_dir": config.output_dir}) == config


def test_a_run_of_it_is_resumed_without_the_folder(command, runner, own):
    runner.fails[7] = RuntimeError("stop")
    assert command("--config-dir", own(), "experiment=mine", "output_dir=run")[0] == 1
    runner.fails.clear()
    assert command("resume=run")[0] == 0 and runner.configs[1].model.name == "mynet"


def test_help_and_errors_name_it(command, own):
    folder = own()
    assert "  mynet                    A small net of mine\n" in command("--help", "--config-dir", folder)[1]
    assert "mynet" not in command("--help")[1]
    assert "did you mean 'mynet'? Type model=mynet" in command("--config-dir", folder, "model=mynt")[2]
    assert "did you mean 'mine'? Type experiment=mine" in command("-cd", folder, "experiment=mien")[2]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--config-dir", "nowhere"], "--config-dir: no such directory: "),
        (["hydra.searchpath=[file:///nowhere]"], "hydra.searchpath: got 'file:///nowhere', which is no folder"),
        (
            ["hydra.searchpath=[pkg://no.such.package]"],
            "hydra.searchpath: got 'pkg://no.such.package', which is no folder",
        ),
        (["hydra.searchpath=nowhere"], "allowed: a list of folders; type 'hydra.searchpath=[file:///FOLDER]'"),
        (["--config-name", "mine"], "--config-name: got 'mine', allowed: config; Type --config-dir DIR"),
        (["--config-path", "x"], "--config-path: would replace quantlab's own YAML; type --config-dir DIR"),
        (["--config-dir"], "--config-dir/-cd: expected one argument; type quantlab --help"),
        (["--cfg", "job", "-m"], "-m: a question is answered for one job"),
        (["--cfg", "job", "model=resnet"], "did you mean 'resnet18'? Type model=resnet18"),
    ],
)
def test_a_wrong_place_is_one_line(command, tmp_path, words, said):
    code, out, err = command(*words)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, text, words, said",
    [
        (
            "model/x.yaml",
            "defaults: [resnet20, _self_]\nwidht: 3\n",
            ["model=x"],
            "model.widht: no such key; did you mean 'width'?",
        ),
        (
            "model/x.yaml",
            "defaults: [resnet20, _self_]\n_target_: os.system\n",
            ["model=x"],
            "os.system', which may not be instantiated",
        ),
        ("model/x.yaml", "a: b: c\n", ["model=x"], "not readable as YAML: mapping values are not allowed"),
        ("model/x.yaml", "defaults: [resnet21, _self_]\n", ["model=x"], "resnet21"),
        (
            "model/resnet20.yaml",
            "depth: 14\n",
            ["model=resnet20"],
            "never read, since quantlab has its own model/resnet20",
        ),
        ("config.yaml", "seed: 3\n", [], "never read, since quantlab has its own config"),
        (
            "alone.yaml",
            "seed: 3\n",
            ["--config-name", "alone"],
            "does not build on quantlab's own config; begin its defaults with '- config'",
        ),
        ("list.yaml", "[1, 2]\n", ["--config-name", "list"], "list"),
    ],
)
def test_yaml_that_is_wrong_is_refused_by_name(command, runner, own, name, text, words, said):
    words = words if "--config-name" in words else ["method=pretrain", "task=digits", *words]
    code, out, err = command("--config-dir", own(name, text), *words)
    assert (code, out, runner.configs) == (2, "", []) and said in err and "Traceback" not in err


def test_a_copy_of_ours_is_no_harm(command, own):
    text = options("model")["resnet20"].read_text()
    assert command("-cd", own("model/resnet20.yaml", text), "method=qat", "model=resnet20")[0] == 0


def test_a_method_of_ones_own_brings_what_it_builds_on(command, runner, own):
    text = "defaults: [qat, _self_]\nname: shorter\nepochs: 3\n"
    folder = own("method/brief.yaml", text)
    assert command("-cd", folder, "method=brief")[0] == 0 and runner.configs[0].method.epochs == 3
    assert "method=shorter needs a classifier" in command("-cd", folder, "method=brief", "model=ddim")[2]


def test_a_sweep_that_yaml_asks_for(command, runner, own):
    text = ROW + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params: {seed: '0,1', model.depth: 'choice(8,14)'}\n"
    folder = own("experiment/swept.yaml", text)
    assert command("-cd", folder, "experiment=swept", "output_dir=sweep")[0] == 0
    assert [(config.seed, config.model.depth) for config in runner.configs] == [(0, 8), (0, 14), (1, 8), (1, 14)]
    runner.configs.clear()
    assert command("-cd", folder, "experiment=swept", "seed=4", "output_dir=other")[0] == 0
    assert [(config.seed, config.model.depth) for config in runner.configs] == [(4, 8), (4, 14)]


def test_an_interrupted_sweep_of_it_says_how_to_go_on(command, runner, own, tmp_path):
    folder = own()
    runner.fails[1] = KeyboardInterrupt()
    code, _, err = command(
        "hydra.searchpath=[" + folder + "]", "-m", "experiment=mine", "seed=0,1,2", "output_dir=sweep"
    )
    words = err.splitlines()[-1].removeprefix("quantlab: resume with: quantlab ")
    assert (
        code == 130
        and words == f"-m 'hydra.searchpath=[{folder}]' experiment=mine seed=0,1,2 output_dir={tmp_path / 'sweep'}"
    )


def test_the_config_that_is_shown_is_the_one_that_runs(command, own):
    code, out, _ = command("experiment=mine", "--cfg", "job", "--resolve", "--package", "model", "--config-dir", own())
    shown = yaml.safe_load(out)
    assert code == 0 and (shown["name"], shown["depth"]) == ("mynet", 14)


@pytest.mark.parametrize("bad", [LAUGHS, DEEP, LOOP, "x: ${\n", "a: 1\na: 2\n"])
def test_a_yaml_that_would_never_end_is_refused_by_name(command, runner, own, bad):
    for name, words in (
        ("experiment/x.yaml", ["experiment=x"]),
        ("model/x.yaml", ["model=x"]),
        ("alone.yaml", ["--config-name", "alone"]),
    ):
        folder = own(name, bad)
        for question in ([], ["--cfg", "job"], ["-m", "seed=0,1"]):
            code, out, err = command("--config-dir", folder, *words, *question)
            assert (code, out, runner.configs) == (2, "", []) and f"{name}: not readable as YAML" in err
        (Path(folder) / name).unlink()
