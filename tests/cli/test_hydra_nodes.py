"""What Hydra would build from its own section is held against an allowlist before anything is built."""

import pytest
from omegaconf import OmegaConf

from quantlab.cli.callbacks import Callbacks

MKDIR = "{_target_: os.mkdir, path: owned}"
PLAIN = "hydra.experimental.callbacks.LogJobReturnCallback"


@pytest.mark.parametrize(
    "words, key, got",
    [
        ([f"+hydra.callbacks.x={MKDIR}"], "hydra.callbacks.x._target_", "'os.mkdir'"),
        ([f"+hydra.callbacks.x={{_target_: {PLAIN}, a: [{MKDIR}]}}"], "hydra.callbacks.x.a.0._target_", "'os.mkdir'"),
        (["+hydra.callbacks.x=${model}"], "hydra.callbacks.x._target_", "'quantlab.models."),
        (["+hydra.callbacks.x=${task.y}", f"+task.y={MKDIR}"], "task.y._target_", "'os.mkdir'"),
        ([f"+hydra.callbacks.x={MKDIR}", "--cfg", "job"], "hydra.callbacks.x._target_", "'os.mkdir'"),
        (["-m", "seed=0,1", "hydra.launcher._target_=os.mkdir"], "hydra.launcher._target_", "'os.mkdir'"),
        (["-m", "seed=0,1", f"+hydra.launcher.x={MKDIR}"], "hydra.launcher.x._target_", "'os.mkdir'"),
        (["+hydra.job_logging.x=ext://os.mkdir"], "hydra.job_logging.x", "'ext://os.mkdir'"),
        (["--info", "config", "+hydra.hydra_logging.handlers={x: {class: os.mkdir}}"], "class", "'os.mkdir'"),
    ],
)
def test_nothing_outside_the_allowlist_is_built_for_hydra(words, key, got, command, tmp_path):
    code, out, err = command(*words)
    assert code == 2 and f"{key}: got {got}" in err and "may not be instantiated" in err or "imported" in err
    assert list(tmp_path.iterdir()) == []


def test_nor_what_a_yaml_of_somebody_else_names(command, tmp_path):
    folder = tmp_path / "theirs"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "x.yaml").write_text(
        "# @package _global_\nhydra:\n  job_logging:\n    formatters: {x: {(): os.mkdir, path: owned}}\n"
        f"  callbacks:\n    x: {MKDIR}\n"
    )
    words = ("--config-dir", str(folder), "experiment=x")
    for question in ((), ("--cfg", "hydra"), ("--info", "config")):
        code, out, err = command(*words, *question)
        assert code == 2 and "hydra.callbacks.x._target_: got 'os.mkdir'" in err
        assert "hydra.job_logging.formatters.x.(): got 'os.mkdir'" in err
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_what_hydra_ships_may_be_built(command, tmp_path):
    callback = f"+hydra.callbacks.x={{_target_: {PLAIN}}}"
    assert command(callback, "output_dir=run")[0] == 0
    code, out, err = command(callback, "hydra/job_logging=stdout", "--cfg", "hydra")
    assert code == 0, err


def test_callbacks_are_told_in_order_and_one_that_raises_is_a_warning():
    told = []

    class Tells:
        def __init__(self, name):
            self.name = name

        def on_job_start(self, config, **more):
            told.append((self.name, sorted(more)))
            if self.name == "b":
                raise ValueError("no")

        on_job_end = on_job_start

    callbacks = Callbacks(OmegaConf.create({"hydra": {"callbacks": {}}}))
    callbacks.all = [Tells("a"), Tells("b")]
    with pytest.warns(UserWarning, match="Tells.on_job_start raised ValueError: no"):
        callbacks.on_job_start(config=None, task_function=None)
    with pytest.warns(UserWarning, match="Tells.on_job_end raised ValueError: no"):
        callbacks.on_job_end(config=None, job_return=None)
    assert told == [("a", ["task_function"]), ("b", ["task_function"]), ("b", ["job_return"]), ("a", ["job_return"])]
