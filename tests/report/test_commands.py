"""The command that trains a found subnet: composed again, it gives the task and the model of the supernet's run."""

import shlex

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from quantlab.config import find_problems, to_plain, validate
from quantlab.report.commands import as_value, training_command

SUBNET = "3-3-3-1-2-3"
STAGES = "model.stages=[{channels:4,layers:3,stride:1},{channels:8,layers:3,stride:2}]"


def composed(*words):
    with initialize_config_module("quantlab.conf", version_base="1.3"):
        content = OmegaConf.to_container(compose("config", list(words)), resolve=True)
    assert find_problems(content) == []
    return to_plain(validate(content))


@pytest.mark.parametrize(
    "words, typed",
    [
        (("method=supernet",), [f"model.subnet={SUBNET}"]),
        # An experiment sets the size and the augmentation
        (
            ("experiment=supernet/small/spos_calr_ms", "data_dir='my data'", "device=cpu"),
            [
                "task.image_size=16",
                "task.augmentation.crop_padding=2",
                f"model.subnet={SUBNET}",
                "data_dir='my data'",
                "device=cpu",
            ],
        ),
        (("experiment=supernet/spos", "cache_dir=/tmp/null", "model.pretrain.steps=7"), None),
        (
            (
                "method=supernet",
                "task=image_folder",
                f"data_dir={as_value('/tmp/it is: here')}",
                "task.image_size=16",
                "task.decode_size=20",
                "task.augmentation.scale=[0.5,1]",
                "task.normalization.mean=[0.5,0.25,1e-3]",
                "model.width=4",
            ),
            None,
        ),
        (("method=supernet", "model=mobilenet_supernet_small", STAGES), None),
        (("method=supernet", "task.name=my_digits", "task.data_dir=elsewhere", "task=mnist"), None),
        (("method=supernet", "seed=3"), None),
    ],
)
def test_the_command_composes_the_same_task_and_model(words, typed, monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path))
    subnet = SUBNET if not any("mobilenet" in word for word in words) else "1-2-3-1-2-3"
    run = composed(*words)
    command = shlex.split(training_command(run, subnet))
    assert command[:4] == ["quantlab", "method=pretrain", f"task={command[2][5:]}", f"model={run['model']['name']}"]
    assert typed is None or set(command[4:]) == set(typed)
    again = composed(*command[1:])
    assert again["task"] == run["task"]
    same = {key: value for key, value in run["model"].items() if key != "pretrain"} | {"subnet": subnet}
    assert {key: value for key, value in again["model"].items() if key != "pretrain"} == same
    # pretrain's seed is of its run, which has none but the default; the rest of the recipe is the supernet's
    assert again["model"]["pretrain"] == run["model"]["pretrain"]
    assert {key: again[key] for key in ("data_dir", "cache_dir", "device")} == {
        key: run[key] for key in ("data_dir", "cache_dir", "device")
    }


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "true",
        "null",
        "12",
        "1e3",
        "3-3-3-1",
        "a b",
        "it's",
        "",
        "[x]",
        "a,b",
        "ä",
        0.001,
        1e-7,
        [0.5, [1, "x y"]],
        {"channels": 8, "names": ["a", None]},
    ],
)
def test_values_come_back_from_hydra_as_they_were(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString

    def plain(parsed):
        if isinstance(parsed, QuotedString):
            return parsed.text
        if isinstance(parsed, list):
            return [plain(one) for one in parsed]
        return {key: plain(one) for key, one in parsed.items()} if isinstance(parsed, dict) else parsed

    assert plain(OverridesParser.create().parse_override(f"key={as_value(value)}").value()) == value
