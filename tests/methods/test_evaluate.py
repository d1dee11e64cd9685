"""method=evaluate: a finished run's metrics again, of a model as it is, and on other data."""

import shutil

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image
from run_files import results
from sklearn.datasets import load_digits
from undrawn import undrawn

SMALL = ("task=digits", "model=resnet20", "model.depth=8", "model.width=4", "model.pretrain.steps=3", "device=cpu")
RUNS = {
    "qat": ("method=qat", "quantizer=ewgs", "method.schedule=learning_rate", "trainer.max_steps=3"),
    "low_bit": ("method=low_bit", "trainer.max_steps=3"),
    "pretrain": ("method=pretrain",),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """finished(method) -> directory of a run of it on digits, made once."""
    from quantlab.cli.main import main

    made = {}

    def run(method):
        if method not in made:
            made[method] = tmp_path_factory.mktemp(method) / "run"
            with undrawn():
                assert main([*RUNS[method], *SMALL, f"output_dir={made[method]}", f"cache_dir={cache}"]) == 0
        return made[method]

    return run


@pytest.fixture
def evaluate(quantlab, tmp_path):
    """evaluate(word, ...) -> results.json of method=evaluate, which has succeeded."""

    def run(*words):
        directory = tmp_path / f"evaluated{len(list(tmp_path.glob('evaluated*')))}"
        code, _, err = quantlab("method=evaluate", *words, "device=cpu", f"output_dir={directory}")
        assert code == 0, err
        return results(directory)

    return run


@pytest.fixture
def refused(quantlab, tmp_path):
    """refused(word, ...) -> the one line with which the command refuses, before it writes anything."""

    def run(*words):
        code, _, err = quantlab(*words, "device=cpu", f"output_dir={tmp_path / 'refused'}")
        lines = [line for line in err.splitlines() if "error" in line]
        assert code == 2 and len(lines) == 1 and not (tmp_path / "refused/config.yaml").exists(), err
        return lines[0]

    return run


@pytest.fixture
def classes(tmp_path):
    """The digits as a folder of class folders."""
    digits = load_digits()
    for index in range(200):
        folder = tmp_path / "images" / str(digits.target[index])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[index] * 15.9375).astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("method", RUNS)
def test_a_finished_run_repeats_its_numbers_bit_for_bit(method, finished, evaluate):
    ran, found = results(finished(method)), evaluate(f"method.run={finished(method)}")
    assert found["metrics"] == ran["metrics"] and found["bits"] == ran["bits"]
    assert found["protocol"].items() <= ran["protocol"].items()
    assert (found["method"], found["model"], found["task"], found["cost"]["steps"]) == (
        "evaluate",
        "resnet20",
        "digits",
        0,
    )


def test_a_model_as_it_is(finished, evaluate, refused, tmp_path):
    expected = results(finished("pretrain"))["metrics"]
    weights = finished("pretrain") / "checkpoints/model.safetensors"
    assert evaluate(*SMALL)["metrics"] == expected  # from method=pretrain's cache
    shutil.copy(weights, tmp_path / "weights.safetensors")
    words = (*SMALL, f"model.weights={tmp_path / 'weights.safetensors'}", f"cache_dir={tmp_path / 'empty'}")
    assert evaluate(*words)["metrics"] == expected
    assert evaluate(*words, "method.part=validation")["protocol"]["part"] == "validation"
    said = refused("method=evaluate", *SMALL, f"cache_dir={tmp_path / 'empty'}")  # nothing is trained for it
    assert (
        "untrained model" in said
        and "method=pretrain task=digits model=resnet20" in said
        and "model.weights=FILE" in said
    )


def test_what_is_typed_beside_a_run(finished, evaluate, classes, tmp_path):
    run = finished("qat")
    found = evaluate(f"method.run={run}", "task.evaluation.batch_size=7")
    assert found["metrics"]["top1"] == results(run)["metrics"]["top1"]
    assert yaml.safe_load((tmp_path / "evaluated0/config.yaml").read_text())["task"]["evaluation"]["batch_size"] == 7
    found = evaluate(
        f"method.run={run}", "task=image_folder", f"data_dir={classes}", "task.test_fraction=0.5", "task.channels=1"
    )
    task = yaml.safe_load((tmp_path / "evaluated1/config.yaml").read_text())["task"]
    assert found["task"] == "image_folder" and found["protocol"]["test_images"] == 100
    # image size and normalization are the network's
    assert (task["image_size"], task["normalization"]) == (8, {"mean": [0.305], "std": [0.376]})


def test_invalid_requests_are_refused(finished, refused, classes, tmp_path):
    run = finished("qat")
    for word in ("model=resnet32", "model.pretrain.steps=5", "quantizer=lsq"):
        said = refused("method=evaluate", f"method.run={run}", word)
        assert f"{word.split('=')[0]}: typed beside method.run" in said and f"drop {word.split('=')[0]}" in said
    (classes / "9/0.png").parent.rename(classes / "8/9")  # nine classes
    said = refused(
        "method=evaluate", f"method.run={run}", "task=image_folder", f"data_dir={classes}", "task.channels=1"
    )
    assert "task=image_folder (1 channels, 9 classes)" in said and "[10, 16] instead of [9, 16]" in said
    assert "model=resnet20 (a classifier), but method=sample needs one of a denoiser" in refused(
        "method=sample", f"method.run={run}"
    )
    assert "nowhere: no such file; name the directory of a run" in refused(
        "method=evaluate", f"method.run={tmp_path / 'nowhere'}"
    )
    assert "method.part: got validation" in refused("method=evaluate", "method.part=validation")
    assert "or method.run=DIR" in refused("method=evaluate", "quantizer=uniform_affine")


def test_a_run_that_left_no_model_of_its_own(finished, refused, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished("qat"), unfinished)
    (unfinished / "results.json").unlink()
    assert f"has not completed; go on with it: quantlab resume={unfinished}" in refused(
        "method=evaluate", f"method.run={unfinished}"
    )
    (tmp_path / "supernet").mkdir()
    with initialize_config_module("quantlab.conf", version_base="1.3"):
        OmegaConf.save(
            compose("config", ["method=supernet", f"output_dir={tmp_path}"]),
            tmp_path / "supernet/config.yaml",
            resolve=True,
        )
    assert "rank subnets" in refused("method=evaluate", f"method.run={tmp_path / 'supernet'}")
