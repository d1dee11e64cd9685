"""method.teacher: a network in full precision whose predictions are learned, frozen, never saved, and the same
after a stop.
"""

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from undrawn import undrawn

from quantlab.errors import RunError
from quantlab.methods.teacher import Teacher
from quantlab.run.checkpoints import Checkpoints
from quantlab.run.state import load_model

TINY = (
    "model.depth=8",
    "model.width=2",
    "model.pretrain.steps=5",
    "device=cpu",
    "trainer.log_every=1",
    "trainer.checkpoint_every=2",
)


@pytest.fixture(scope="module")
def taught(tmp_path_factory, cache):
    """Directories: `teacher`, a run of method=pretrain, and `run`, qat that learned from it."""
    from quantlab.cli.main import main

    place = tmp_path_factory.mktemp("teacher")
    ours = (*TINY, f"cache_dir={cache}")
    teacher = ("method=pretrain", "task=digits", "model=resnet20", *ours, f"output_dir={place / 'teacher'}")
    run = ("method=qat", *ours, f"method.teacher.weights={place / 'teacher'}", f"output_dir={place / 'run'}")
    with undrawn():
        assert main([*teacher]) == main([*run, "trainer.max_steps=2"]) == 0
    return place


def test_a_teacher_is_frozen_and_answers_as_in_evaluation():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8), nn.Dropout(0.9), nn.Linear(8, 3))
    network[1].running_mean.fill_(0.5)
    teacher, images = Teacher(network), torch.randn(4, 2, 2, 2)
    expected = network.eval()(images).softmax(1)
    network.train()
    assert torch.equal(teacher.probabilities(images), expected) and not teacher.probabilities(images).requires_grad
    assert all(not parameter.requires_grad for parameter in teacher.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())  # the student is another


def test_no_teacher_is_asked_for_by_default():
    assert Teacher.of(SimpleNamespace(architecture=None, weights=None), None) is None


def test_checkpoints_and_model_hold_the_student_alone(taught):
    _, state, _ = Checkpoints(taught / "run" / "checkpoints").load_latest()
    names = {*state["method"]["model"], *load_model(taught / "run" / "checkpoints" / "model")[0]}
    assert "conv1.weight" in names and not any("teacher" in name for name in names)
    assert len(state["method"]["teacher"]) == 64  # only by its fingerprint is it known


def test_another_teacher_is_found_when_the_run_goes_on(taught):
    _, state, _ = Checkpoints(taught / "run" / "checkpoints").load_latest()
    with pytest.raises(RunError, match="its weights are not those that the run began with"):
        Teacher(nn.Linear(2, 2)).require_same(state["method"]["teacher"])


def test_the_start_itself_can_be_the_teacher(quantlab, tmp_path, monkeypatch):
    """As it is before its layers are quantized in place."""
    from quantlab.methods.qat import QAT

    seen = {}

    def training_batch(self, batch):
        seen.update(teacher=self.teacher.network.state_dict(), student=self.context.model.state_dict())
        raise RunError("seen")  # what comes after is not asked about here

    monkeypatch.setattr(QAT, "training_batch", training_batch)
    quantlab("method=qat", *TINY, "method.teacher.architecture=start", f"output_dir={tmp_path / 'run'}")
    assert not any("quantizer" in name for name in seen["teacher"]) and any(
        "quantizer" in name for name in seen["student"]
    )
    assert seen["teacher"]["layer1.0.conv1.weight"].equal(seen["student"]["layer1.0.conv1.weight"])


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ("method.teacher.weights={}/run",),
            "method.teacher.weights: {}/run holds a model quantized to W2A2, allowed: weights in full precision",
        ),
        (("method.teacher.weights={}/nothing",), "method.teacher.weights: no such file: {}/nothing"),
        (
            ("method.teacher.weights={}/teacher/checkpoints/model.safetensors",),
            "type method.teacher.architecture=NAME beside it",
        ),
        (
            ("method.teacher.architecture=resnet35",),
            "did you mean 'resnet34'? Type method.teacher.architecture=resnet34",
        ),
        (
            ("method.teacher.architecture=resnet18", "method.teacher.weights={}/teacher"),
            "method.teacher.weights: {}/teacher is of another architecture",
        ),
        (
            ("method.teacher.architecture=start", "method.start={}/run"),
            "method.teacher.architecture: got start, but method.start begins with",
        ),
        (
            ("method.teacher.architecture=start", "method.teacher.weights={}/teacher"),
            "beside architecture=start, which has its own, allowed: null",
        ),
        (
            (
                "method.teacher.architecture=start",
                "task=super_resolution",
                "model=edsr_small",
                "quantizer.output_scale=true",
            ),
            "method.teacher: predicts classes",
        ),
    ],
)
def test_a_teacher_that_will_not_do_is_refused_before_any_work(words, said, taught, quantlab, tmp_path):
    tiny = () if "task=super_resolution" in words else TINY
    code, _, err = quantlab(
        "method=qat", *tiny, *(word.format(taught) for word in words), f"output_dir={tmp_path / 'new'}"
    )
    assert code == 2 and said.format(taught) in err, err
    assert (
        len([line for line in err.splitlines() if line.startswith("quantlab: error")]) == 1
        and not (tmp_path / "new").exists()
    )


def test_a_teacher_of_other_classes_is_refused(taught, quantlab, tmp_path):
    from safetensors.torch import save_file

    directory = tmp_path / "hundred"
    shutil.copytree(taught / "teacher", directory)
    tensors = load_model(directory / "checkpoints" / "model")[0]
    tensors |= {"fc.weight": torch.zeros(100, 8), "fc.bias": torch.zeros(100)}
    for file in (directory / "checkpoints").iterdir():
        file.unlink()
    save_file(tensors, directory / "checkpoints" / "model.safetensors")
    code, _, err = quantlab(
        "method=qat", *TINY, f"method.teacher.weights={directory}", f"output_dir={tmp_path / 'new'}"
    )
    assert (
        code == 2
        and "has other classes than the task (fc would be new), allowed: a teacher of the task's classes" in err
    ), err
