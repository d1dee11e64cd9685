"""Whole runs on folders of classes."""

import json
import os
import signal

import pytest
from class_folders import tree

from quantlab.tasks.classification_folder import FolderImages

RUN = (
    "task=image_folder",
    "task.image_size=8",
    "task.decode_size=10",
    "model=resnet20",
    "model.depth=8",
    "model.width=4",
    "device=cpu",
    "model.pretrain.steps=4",
    "model.pretrain.batch_size=8",
    "trainer.checkpoint_every=3",
    "trainer.log_every=1",
)


def test_whole_runs_have_the_same_bits_with_and_without_loading_processes(tmp_path, quantlab):
    tree(tmp_path / "data")
    found = []
    for workers in (0, 2):
        directory = tmp_path / f"run{workers}"
        code, _, err = quantlab(
            "method=qat",
            *RUN,
            "method.epochs=3",
            "method.batch_size=8",
            f"trainer.num_workers={workers}",
            f"data_dir={tmp_path / 'data'}",
            f"output_dir={directory}",
        )
        assert code == 0, err
        found.append((directory / "metrics.jsonl").read_bytes())
    assert found[0] == found[1]
    assert json.loads((directory / "results.json").read_text())["protocol"]["test_images"] == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_one_line_that_names_it(workers, tmp_path, quantlab):
    tree(tmp_path / "data", classes=("a", "b"), count=12)
    for number in range(2, 11):
        file = tmp_path / "data" / "b" / f"{number}.png"
        file.write_bytes(file.read_bytes()[:60])
    code, _, err = quantlab(
        "method=pretrain",
        *RUN,
        f"trainer.num_workers={workers}",
        f"data_dir={tmp_path / 'data'}",
        f"output_dir={tmp_path / 'run'}",
    )
    assert code in (1, 2) and "cannot be read as an image" in err and "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("quantlab: error: ") and ".png" in last


def test_a_signal_while_a_batch_is_loaded_waits_for_the_step_and_saves(tmp_path, quantlab, monkeypatch):
    tree(tmp_path / "data")
    words = (
        "method=pretrain",
        *RUN,
        "model.pretrain.seed=5",
        "trainer.checkpoint_every=100",
        "trainer.num_workers=0",
        f"data_dir={tmp_path / 'data'}",
    )
    original, calls = FolderImages.__getitem__, []

    def interrupted(self, index):
        calls.append(index)
        if len(calls) == 12:  # in the second batch of eight
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, index)

    monkeypatch.setattr(FolderImages, "__getitem__", interrupted)
    code, _, err = quantlab(*words, f"output_dir={tmp_path / 'run'}")
    assert code == 130 and f"quantlab resume={tmp_path / 'run'}" in err
    assert [path.stem for path in (tmp_path / "run" / "checkpoints").glob("step-*.json")] == ["step-00000002"]


def test_weights_from_a_file_are_not_those_from_nothing(tmp_path, quantlab):
    tree(tmp_path / "data")
    words = ("method=pretrain", *RUN, f"data_dir={tmp_path / 'data'}")
    assert quantlab(*words, f"output_dir={tmp_path / 'first'}")[0] == 0
    file = tmp_path / "first" / "checkpoints" / "model.safetensors"
    assert quantlab(*words, f"model.weights={file}", f"output_dir={tmp_path / 'second'}")[0] == 0
    first, second = (
        json.loads((tmp_path / name / "results.json").read_text())["cost"]["steps"] for name in ("first", "second")
    )
    assert first in (0, 4) and second == 4  # trained on, not found in the cache


@pytest.mark.parametrize(
    "words, says",
    [
        (("task.image_size=80",), "task.image_size: got 80, allowed: 1 to 72"),
        (("task.augmentation.scale=[1.0,0.5]",), "type task.augmentation.scale=[0.5,1.0]"),
        (("task.augmentation.scale=[0.5]",), "task.augmentation.scale"),
    ],
)
def test_settings_that_are_refused(words, says, quantlab, tmp_path):
    code, _, err = quantlab("method=qat", "task=image_folder", *words, f"output_dir={tmp_path / 'run'}")
    assert code == 2 and says in err
